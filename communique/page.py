"""Read documents to one HTML page that needs nothing else: no network, no script, no other file.

Filters, hovering and the dark theme are CSS (`page.css`); a content security policy forbids scripts and
everything that is not in the page, the style sheet itself being allowed by its hash. So even a text that got
past the escaping could neither run, nor load, nor restyle anything.

An intent is never told by colour alone: each has a line pattern, a letter and, in the course of a document, a
lane. Colours are Okabe and Ito's (2008, "Color Universal Design").
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from communique.classifier import Statement
from communique.documents import STANDARD_INPUT, Document
from communique.explain import Word, deciding
from communique.render import summary

STRIP = 60  # sentences in one row of a document's course
_LINES = ("solid", "dashed", "dotted", "double", "wavy")
_HUES = 7  # in page.css
_NONE = "n"  # the class of what has no intent, where others have the label's number
_PARAGRAPH = re.compile(r"\r?\n(?:[ \t\r\f\v\u00a0]*\n)+")

_HELP = """\
<details class="help"><summary>How to read this page</summary>
<p>Each sentence was read alone: what “it” or “the offer” means was not looked up in the sentence before. A
sentence can do several things at once; it then has several lines and letters. Point at a sentence, tap it, or
go from one to the next with the Tab key, to see every label’s probability, the threshold it has to reach (the
upright mark), and the words that decided, with what the label’s log-odds would lose without each. Confidence
is how far the probabilities keep from their thresholds, 0 to 1; a question mark stands where it is below the
limit that was asked for.</p></details>"""


def html(
    documents: Sequence[Document],
    labels: Sequence[str],
    *,
    thresholds: Sequence[float] | None = None,
    model: str = "communique",
) -> str:
    """The page, as text.

    Args:
        documents: what was read; their `words`, where they are there, are marked and listed.
        labels: the model's labels, in its order.
        thresholds: one a label, shown beside the probabilities; None for a single-label model.
        model: what made the page, for its foot.
    """
    style = _style(labels, thresholds)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = _title(documents[0]) if len(documents) == 1 else f"{len(documents)} documents"
    statements = [statement for document in documents for statement in document.statements]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{title} – communique</title>",
            f"<style>{style}</style></head><body>",
            f"<header><h1><bdi>{title}</bdi></h1>",
            f"<p>{_text(summary(statements, labels))}</p></header>",
            _filters(statements, labels),
            _contents(documents, labels) if len(documents) > 1 else "",
            "<main>",
            *(_article(number, document, labels, len(documents) > 1) for number, document in enumerate(documents, 1)),
            "</main>",
            '<p class="hint">Point at a marked sentence, tap it, or press Tab, to see what decided.</p>',
            f'<footer>{_HELP}<p class="printed">Numbers are probabilities; bold words decided.</p>',
            f"<p>{_text(model)}</p></footer>",
            "</body></html>\n",
        ]
    )


def signs(labels: Sequence[str]) -> list[str]:
    """A short sign for each label: its initial, with the letter that tells it from others of that initial."""
    found = []
    for label in labels:
        rivals = [other for other in labels if other != label and other[:1].lower() == label[:1].lower()]
        telling = (i for i in range(1, len(label)) if all(label[i] != other[i : i + 1] for other in rivals))
        place = next(telling, None) if rivals else None
        found.append(label[:1].upper() + (label[place] if place is not None else ""))
    return found if len(set(found)) == len(labels) else [str(number) for number in range(1, len(labels) + 1)]


def _style(labels: Sequence[str], thresholds: Sequence[float] | None) -> str:
    """`page.css`, and the rules that depend on the labels."""
    rules = [(Path(__file__).parent / "page.css").read_text(encoding="utf-8")]
    rules += [f".b{share}{{width:{share}%}}" for share in range(101)]
    for place in range(len(labels)):
        line = _LINES[place % len(_LINES)]
        rules.append(f".i{place}{{--c:var(--hue{place % _HUES});--line:{line}}}")
        rules.append(f"body:has(#f{place}:not(:checked)) .course .i{place}{{opacity:.12}}")
    rules += [f".t{place}{{left:{100 * value:.0f}%}}" for place, value in enumerate(thresholds or ())]
    rules += [] if thresholds else [".t{display:none}"]
    shown = [
        f"body:has(#f{key}:checked) .text .par.f{key}{{display:block}}"
        f"body:has(#f{key}:checked) .text .unit.f{key}{{display:inline}}"
        for key in [*range(len(labels)), _NONE]
    ]
    hidden = ".text .par,.text .unit{display:none}"
    unsure = "body:has(#fu:not(:checked)) .text .unit.unsure{display:none}"
    # a browser that does not know :has() shows everything, always
    rules.append(f"@supports selector(:has(*)){{{hidden}{''.join(shown)}{unsure}}}")
    return "\n".join(rules)


def _filters(statements: Sequence[Statement], labels: Sequence[str]) -> str:
    boxes = [
        _box(
            str(place),
            f'<abbr class="tag i{place}">{_text(sign)}</abbr> <span class="u i{place}">{_text(label)}</span>',
            sum(label in statement.intents for statement in statements),
        )
        for place, (label, sign) in enumerate(zip(labels, signs(labels), strict=True))
    ]
    boxes.append(_box(_NONE, "none of these", sum(not statement.intents for statement in statements)))
    if unsure := sum(statement.unsure for statement in statements):
        boxes.append(_box("u", '<abbr class="tag">?</abbr> unsure', unsure))
    return (
        f'<form autocomplete="off"><fieldset><legend>Show sentences with</legend>{"".join(boxes)}'
        '<button type="reset">all</button></fieldset></form>'
    )


def _box(key: str, name: str, count: int) -> str:
    return f'<label><input type="checkbox" id="f{key}" checked> {name} <span class="count">{count}</span></label>'


def _contents(documents: Sequence[Document], labels: Sequence[str]) -> str:
    rows = []
    for number, document in enumerate(documents, 1):
        found = document.statements
        counts = [len(found), *(sum(label in s.intents for s in found) for label in labels)]
        counts.append(sum(not s.intents for s in found))
        cells = "".join(f"<td>{count}</td>" for count in counts)
        rows.append(f'<tr><th scope="row"><a href="#d{number}"><bdi>{_title(document)}</bdi></a></th>{cells}</tr>')
    heads = "".join(
        f'<th scope="col"><abbr class="tag i{place}">{_text(sign)}</abbr> <span class="name">{_text(label)}</span></th>'
        for place, (label, sign) in enumerate(zip(labels, signs(labels), strict=True))
    )
    return (
        '<nav aria-label="Documents"><div class="wide"><table><thead><tr><th scope="col">document</th>'
        f'<th scope="col">all</th>{heads}<th scope="col">none</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></nav>"
    )


def _article(number: int, document: Document, labels: Sequence[str], several: bool) -> str:
    heading = ""
    if several:
        heading = f"<h2><bdi>{_title(document)}</bdi></h2><p>{_text(summary(document.statements, labels))}</p>"
    paragraphs = "".join(_paragraphs(number, document, labels))
    course = _course(number, document.statements, labels)
    return f'<article id="d{number}">{heading}{course}<div class="text">{paragraphs}</div></article>'


def _course(number: int, statements: Sequence[Statement], labels: Sequence[str]) -> str:
    """A lane for each label, a column for each sentence; a column leads to its sentence."""
    letters = "".join(f"<span>{_text(sign)}</span>" for sign in signs(labels))
    strips = []
    for first in range(0, len(statements), STRIP):
        part = statements[first : first + STRIP]
        columns = len(part) if len(statements) <= STRIP else STRIP
        cells = []
        for column, statement in enumerate(part):
            place = first + column
            marks = "".join(
                f'<rect class="i{lane}{" doubt" if statement.unsure else ""}" x="{column * 10 + 1}" '
                f'y="{lane * 10 + 1}" width="8" height="8"/>'
                for lane, label in enumerate(labels)
                if label in statement.intents
            )
            cells.append(
                f'<a href="#d{number}s{place}" tabindex="-1"><title>{place + 1}: {_verdict(statement)} – '
                f'{_text(statement.text[:80])}</title><rect class="hit" x="{column * 10}" width="10" '
                f'height="{len(labels) * 10}"/>{marks}</a>'
            )
        strips.append(
            f'<div class="strip"><div class="letters">{letters}</div><svg viewBox="0 0 {columns * 10} '
            f'{len(labels) * 10}" preserveAspectRatio="none">{"".join(cells)}</svg></div>'
        )
    # the text below says the same to those who cannot see it
    return f'<div class="course" aria-hidden="true">{"".join(strips)}</div>'


def _paragraphs(number: int, document: Document, labels: Sequence[str]) -> Iterator[str]:
    """The text in full, in paragraphs of units: a statement with what stands before it on its line."""
    units: list[str] = []
    kinds: set[str] = set()
    at = 0
    for place, statement in enumerate(document.statements):
        *before, lead = _PARAGRAPH.split(document.text[at : statement.start])
        if before:
            yield from _closed(units, kinds, before)
            units, kinds = [], set()
        own = [f"f{lane}" for lane, label in enumerate(labels) if label in statement.intents] or [f"f{_NONE}"]
        kinds.update(own)
        doubt = " unsure" if statement.unsure else ""
        marked = _statement(f"d{number}s{place}", statement, document.words.get(place, ()), labels)
        units.append(f'<span class="unit {" ".join(own)}{doubt}">{_text(lead)}{marked}</span>')
        at = statement.end
    yield from _closed(units, kinds, [*_PARAGRAPH.split(document.text[at:]), ""])


def _closed(units: list[str], kinds: set[str], rest: list[str]) -> Iterator[str]:
    """The paragraph of these units, and one for each other piece of text before the next statement's."""
    for inside, classes in [("".join(units) + _text(rest[0]), kinds), *((_text(piece), set()) for piece in rest[1:])]:
        if inside.strip():
            yield f'<div class="par {" ".join(sorted(classes or {f"f{_NONE}"}))}" dir="auto">{inside}</div>'


def _statement(key: str, statement: Statement, words: Sequence[Word], labels: Sequence[str]) -> str:
    given = [(lane, label) for lane, label in enumerate(labels) if label in statement.intents]
    carriers = {label: deciding(tuple(words), label) for _, label in given}
    inside = _bold(statement.text, [word for found in carriers.values() for word in found])
    for lane, _ in given:
        inside = f'<span class="u i{lane}">{inside}</span>'
    doubt = "?" if statement.unsure else ""
    signed = signs(labels)
    tags = "".join(
        f'<abbr class="tag i{lane}" title="{_text(label)}">{_text(signed[lane])}{doubt}'
        f'<span class="p"> {statement.probabilities[label]:.2f}</span></abbr>'
        for lane, label in given
    )
    tags = tags or (f'<abbr class="tag" title="unsure">{doubt}</abbr>' if doubt else "")
    stop = 0 if given or doubt else -1  # the Tab key goes from mark to mark; the others still take a click
    return f'<span class="s" id="{key}" tabindex="{stop}" aria-describedby="{key}c">{inside}{tags}</span>' + _card(
        key, statement, carriers, labels
    )


def _card(key: str, statement: Statement, carriers: dict[str, list[Word]], labels: Sequence[str]) -> str:
    doubt = ", unsure" if statement.unsure else ""
    scores = "".join(
        f'<span>{_text(label)}</span><span class="bar i{lane}"><i class="b{statement.probabilities[label] * 100:.0f}">'
        f'</i><i class="t t{lane}"></i></span><span>{statement.probabilities[label]:.2f}</span>'
        for lane, label in enumerate(labels)
    )
    whys = "".join(
        f'<span class="why"><span class="u i{list(labels).index(label)}">{_text(label)}</span> '
        + " · ".join(f"<b>{_text(word.text)}</b> {word.weights[label]:.1f}" for word in found)
        + "</span>"
        for label, found in carriers.items()
        if found
    )
    return (
        f'<span class="card" id="{key}c" role="tooltip" hidden><strong>{_verdict(statement)}</strong> '
        f'<span class="count">confidence {statement.confidence:.2f}{doubt}</span>'
        f'<span class="scores">{scores}</span>{whys}</span>'
    )


def _bold(text: str, words: Sequence[Word]) -> str:
    pieces, at = [], 0
    for start, end in sorted({(word.start, word.end) for word in words}):
        pieces += [_text(text[at:start]), "<b>", _text(text[start:end]), "</b>"]
        at = end
    return "".join([*pieces, _text(text[at:])])


def _verdict(statement: Statement) -> str:
    return _text(", ".join(statement.intents) or "none of these")


def _title(document: Document) -> str:
    return "standard input" if document.name == STANDARD_INPUT else _text(document.name)


def _text(text: str) -> str:
    """Text as it may stand in an element or a quoted attribute; what no file could hold becomes U+FFFD."""
    return escape(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd"))
