"""A document to its sentences, with exact character offsets.

Blocks first (paragraphs, headings, list items, a Markdown header), then sentences inside each block with
nupunkt, so that no sentence runs over a blank line or a bullet. Speaker tags of transcripts and markers of
lists are left outside the spans. Every span satisfies `document[start:end] == document[start:end].strip()`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

Span = tuple[int, int]

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_BLANK = re.compile(r"\n[ \t\r\f\v\u00a0]*(?:\n|\Z)")
# A line that starts a block of its own although no blank line stands before it.
_MARKER = re.compile(
    r"""^[ \t>]*(?:
        \#{1,6}[ \t]+                          # heading
      | [-*+•‣][ \t]+                          # bullet
      | \(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)][ \t]+(?=\S)   # 1.  a)  (iv)
      | (?:[-*_=][ \t]*){3,}$                  # rule, or the line under a heading
      | (?:`{3,}|~{3,}).*                      # fence of code
      | \|                                     # table row
    )""",
    re.VERBOSE,
)
_DASH = re.compile(r"[ \t]*[–—][ \t]+")
_HEADING = re.compile(r"[ \t>]*#{1,6}[ \t]|[ \t]*\*\*[^*]+\*\*[ \t\u00a0]*\Z")
_SPEAKER = re.compile(
    r"""(?:\*\*)?(?:
        [QA](?:\.|:|[ \u00a0]{2,}|\t|[ ](?=[A-Z(]))                       # Q    Mr. President …
      | (?:[A-Z][A-Z.'’\-]+[ ]){0,6}[A-Z][A-Z.'’\-]*[ ]?(?:\([^)\n]{1,60}\))?:   # SENIOR ADMINISTRATION OFFICIAL:
      | (?:Mr|Mrs|Ms|Dr|Sir|Amb|Ambassador|President|Minister|Secretary|The[ ]President)\.?
        (?:[ ][A-Z][\w.'’\-]+){0,4}[ ]?(?:\([^)\n]{1,60}\))?:          # Mr. Tarnov (Country):
    )(?:\*\*)?[ \t\u00a0]*""",
    re.VERBOSE,
)
_LINK_ONLY = re.compile(r"[\W_]*+(?:https?://\S++[\W_]*+)?\Z")  # nothing is tried twice: linear in the length
_UNBROKEN = re.compile(r"\S{500,}")  # no sentence of a language with blanks
_MARK = re.compile(r"[.!?…](?!\Z)")


def sentences(document: str) -> Iterator[Span]:
    """Yields the (start, end) character offsets of each sentence, in order, none of them empty."""
    from nupunkt import sent_spans

    for start, end in _blocks(document):
        block = document[start:end]
        # nupunkt's time grows with the square of an unbroken run full of marks, and it parts none: it sees letters
        calm = _UNBROKEN.sub(lambda run: _MARK.sub("x", run.group()), block)
        pieces = [] if block.isspace() else [(a, b) for a, b in sent_spans(calm)]
        for left, right in _parted(block, _rejoined(block, pieces)):
            span = _trimmed(document, start + left, start + right)
            if span and not _LINK_ONLY.match(document[span[0] : span[1]]):
                yield span


def _blocks(document: str) -> Iterator[Span]:
    header = _FRONT_MATTER.match(document)
    position = header.end() if header else 0
    while position < len(document):
        gap = _BLANK.search(document, position)
        end = gap.start() if gap else len(document)
        yield from _lines(document, position, end)
        position = gap.end() if gap else len(document)


def _lines(document: str, start: int, end: int) -> Iterator[Span]:
    """Parts a block where a line is a heading, a list item, a table row or a new speaker's turn."""
    open_at = at = start
    while at < end:
        newline = document.find("\n", at, end)
        line_end = end if newline < 0 else newline
        line = document[at:line_end]
        # a dash opens a list item at the start of a block; further down it is a wrapped line's
        marker = _MARKER.match(line) or (_DASH.match(line) if at == start else None)
        content = at + (marker.end() if marker else len(line) - len(line.lstrip()))
        speaker = _SPEAKER.match(document, content, line_end)
        heading = _HEADING.match(line) is not None and not speaker
        if marker or speaker or heading:
            if at > open_at:
                yield open_at, at
            open_at = speaker.end() if speaker else content
        at = line_end + 1
        if heading:
            yield open_at, line_end
            open_at = at
    if open_at < end:
        yield open_at, end


# nupunkt ends a sentence after some of these; in this kind of text it goes on.
_TITLE = re.compile(
    r"(?:\b(?:Gen|Lt|Col|Maj|Sgt|Adm|Capt|Cmdr|Hon|Amb|Rep|Sen|Gov|Messrs|Mmes|Mr|Mrs|Ms|Dr|Prof|St|Mt|Ft|vs|v|cf|attn?)"
    r"|\b[A-Z](?:\.[A-Z])*)\.[ \t\n]*\Z"
)
_MONTH = r"(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\."
_BEFORE_NUMBER = re.compile(rf"\b(?:(?:[Nn]os?|[Aa]rts?|[Rr]es|[Pp]aras?|[Ss]ecs?|[Cc]h)\.|{_MONTH})[ \t\n]*\Z")
_STATE = r"\b(?:U\.S|U\.K|U\.N|E\.U|D\.C|U\.A\.E|U\.S\.S\.R)\."
_ENDS_ANYWAY = re.compile(rf"{_STATE}[ \t\n]*\Z")
_OPENING = (
    r"[\"“‘'(]*(?:The|This|That|These|Those|There|It|He|She|They|We|I|You|But|And|So|If|In|On|At|As|For|By|However|Asked"
    r"|Its|His|Her|Their|Our|My|What|When|Where|Who|Why|How|No|Yes|(?:Some|Any|Every|No)(?:body|one)|Both|Others"
    r"|An?(?=[ ]))\b"
)
_OPENS = re.compile(_OPENING)
_FOOTNOTE = r"(?:\[\d{1,3}\]|[¹²³⁰⁴-⁹]+)"
# what follows a full stop without a space: closing quotes and brackets, footnote marks, stray tags of HTML
_CLOSING = rf"[\"”’')]*(?:{_FOOTNOTE}|</?\w+>)*\s+"
_SHORT = r"(?:incl|approx|paras?|arts?|secs?|nos?|res|ch|pp|attn?|dept|govt|esp|viz|vs|cf)"
_ENDS = re.compile(
    rf"\b(?!{_SHORT}\.)[a-z]{{4,}}\.{_CLOSING}(?=[\"“‘'(]*[A-Z])"  # "per cent. Oslo"
    rf"|(?:\b(?!{_SHORT}\.)(?:[a-z]{{2,}}|[A-Z][a-z]{{3,}})\.|\.\.\.|…|{_STATE}){_CLOSING}(?={_OPENING})"  # "ten. And"
    rf"|[.!?][\"”’')]*{_FOOTNOTE}\s+(?=[\"“‘'(]*[A-Z])"  # "the treaty.[3] Two"
    rf"|\b{_MONTH}\s+(?=[\"“‘'(]*[A-Z])"  # "in Nov. Trains"
)
_NOTE_MARK = re.compile(_FOOTNOTE)
_VISIBLE = re.compile(r"\S")
_REACH = 100  # characters before and after an end that are looked at


def _parted(block: str, pieces: Iterable[Span]) -> Iterator[Span]:
    """Mends two habits of the splitter: it takes "month." for an abbreviation, and footnote marks for a next word."""
    for left, right in pieces:
        start = left
        for match in _ENDS.finditer(block, left, right):
            yield start, match.end()
            start = match.end()
        yield start, right


def _rejoined(block: str, pieces: Iterable[Span]) -> Iterator[Span]:
    """Mends two habits of the splitter: a break after an abbreviation, and one inside a bracket."""
    start = right = None
    for left, right in pieces:
        start = left if start is None else start
        following = _VISIBLE.search(block, right)
        if following:
            # slices stay short: a document may be one line of megabytes
            rest = block[following.start() : following.start() + _REACH]
            if _continues(block[max(start, right - _REACH) : right], rest):
                continue
        yield start, right
        start = None
    if start is not None and right is not None:
        yield start, right


def _continues(piece: str, rest: str) -> bool:
    if _NOTE_MARK.match(rest):
        return True
    if rest[0].islower() and not piece.rstrip().endswith(("!", "?", "”", '"')):
        return True
    if _ENDS_ANYWAY.search(piece):
        return not _OPENS.match(rest)
    if _BEFORE_NUMBER.search(piece):
        return rest[0].isdigit()
    return bool(_TITLE.search(piece))


def _trimmed(document: str, start: int, end: int) -> Span | None:
    while start < end and document[start].isspace():
        start += 1
    while end > start and document[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None
