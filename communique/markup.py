"""HTML to the text in it: a paragraph a block, so that a reader of plain text can take it from there."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_START = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n\f]+")
_HIDDEN = {"nav", "noscript", "script", "style", "svg", "template", "title"}  # all of them have an end tag
_INLINE = {
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "img",
    "ins", "kbd", "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var",
    "wbr",
}  # fmt: skip


def is_html(text: str) -> bool:
    """Whether a text begins as an HTML page does."""
    return _START.match(text) is not None


def text_of(html: str) -> str:
    """The text of a page, paragraphs with an empty line between them; menus, scripts and styles left out.

    Never fails: what is no HTML is text, as in a browser.
    """
    parser = _Text()
    parser.feed(html)
    parser.close()
    text = re.sub(r" *\n *", "\n", "".join(parser.parts))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden: list[str] = []
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden.append(tag)
        elif tag == "pre":
            self._verbatim += 1
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        elif tag == "pre":
            self._verbatim = max(self._verbatim - 1, 0)
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data if self._verbatim else _SPACE.sub(" ", data))

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        # the standard library stops with an AssertionError at "<![x[": browsers take it for a comment
        return self.parse_bogus_comment(i)

    def _break(self, tag: str) -> None:
        if tag not in _INLINE:
            self.parts.append("\n" if tag == "br" else "\n\n")
