"""Statements to text: tables for the terminal, JSON lines for programs, CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterable, Sequence

from communique.classifier import Statement
from communique.documents import printable
from communique.explain import Explanation, Word, deciding

_COLOURS = ("36", "33", "31", "35", "32", "34")  # by the label's place; the word stands beside it always
_FORMULA = "=+-@\t\r\n＝＋－＠"  # what makes a spreadsheet take a cell for a formula
_RESET = "\033[0m"
_STRONG, _WEAK = ("\ue000", "\ue001"), ("\ue002", "\ue003")  # stand for marks while a text is wrapped


def json_lines(statements: Iterable[Statement], source: str | None = None) -> str:
    """One JSON object a line: offsets, intents, probabilities, confidence and text, and the file where given."""
    lines = []
    for statement in statements:
        record: dict[str, object] = {"file": source} if source is not None else {}
        lines.append(json.dumps(record | _record(statement), ensure_ascii=False))
    return "".join(line + "\n" for line in lines)


def explanation_json(explanation: Explanation) -> str:
    """One JSON object: the statement as in `json_lines`, and its words with their weights."""
    words = [
        {
            "text": word.text,
            "start": word.start,
            "end": word.end,
            "weights": {label: round(weight, 4) for label, weight in word.weights.items()},
        }
        for word in explanation.words
    ]
    return json.dumps(_record(explanation.statement) | {"words": words}, ensure_ascii=False) + "\n"


def csv_header(labels: Sequence[str]) -> str:
    """The names of the columns of `csv_rows`."""
    return csv_lines([["file", "start", "end", "text", "intents", *map(_cell, labels), "confidence", "unsure"]])


def csv_rows(statements: Iterable[Statement], source: str) -> str:
    """One row a statement: file, offsets, text, intents parted by "; ", a probability a label, confidence, unsure.

    A cell that a spreadsheet would run as a formula, or that begins with an apostrophe, gets an apostrophe
    before it (OWASP, "CSV injection"); to get the text back, drop the first apostrophe of a cell that has one.
    """
    return csv_lines(
        [
            _cell(source),
            statement.start,
            statement.end,
            _cell(statement.text),
            _cell("; ".join(statement.intents)),
            *(f"{p:.4f}" for p in statement.probabilities.values()),
            f"{statement.confidence:.4f}",
            str(statement.unsure).lower(),
        ]
        for statement in statements
    )


def csv_lines(rows: Iterable[Iterable[object]]) -> str:
    """Rows of cells as CSV that every reader parts into the same cells, whatever is in them."""
    lines = []
    for row in rows:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\r\n").writerow(row)  # with "\n", a lone "\r" would stand unquoted
        lines.append(buffer.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def table(statements: Sequence[Statement], labels: Sequence[str], *, width: int = 100, colour: bool = False) -> str:
    """Sentence by sentence: the intents with their probabilities at the left, the text wrapped at the right.

    An unsure statement has a question mark behind each intent.
    """
    doubt = 2 if any(statement.unsure for statement in statements) else 0
    names = max([len(label) for label in labels] + [10]) + 5 + doubt
    room = max(width - names - 2, 30)
    rows = []
    for statement in statements:
        left = [_named(intent, statement, labels, colour, names) for intent in statement.intents]
        left = left or [("?" if statement.unsure else "").ljust(names)]
        right = textwrap.wrap(" ".join(printable(statement.text).split()), room) or [""]
        for line in range(max(len(left), len(right))):
            head = left[line] if line < len(left) else " " * names
            rows.append(f"{head}  {right[line] if line < len(right) else ''}".rstrip())
    return "".join(row + "\n" for row in [*rows, "", summary(statements, labels)])


def explained(explanation: Explanation, labels: Sequence[str], *, width: int = 100, colour: bool = False) -> str:
    """For each intent: the text with the words that decided marked by strength, then these words and weights.

    Marks are colours, or **strong** and *weaker* without them. A statement without intents shows the label
    that is most probable.
    """
    statement = explanation.statement
    likeliest = max(statement.probabilities, key=statement.probabilities.__getitem__)
    lines = (
        [] if statement.intents else [f"No intent reached its threshold; the most probable label is {likeliest}.", ""]
    )
    for label in statement.intents or (likeliest,):
        words = deciding(explanation.words, label)
        hue = _COLOURS[list(labels).index(label) % len(_COLOURS)]
        longest = max((len(word.text) for word in words), default=0)
        lines.append(_named(label, statement, labels, colour, 0))
        lines += [_dressed(line, hue, colour) for line in textwrap.wrap(_marked(statement.text, words, label), width)]
        lines += [f"  {word.text:<{longest}}  {word.weights[label]:+.2f}" for word in words]
        lines += [""] if words else ["  no word carries it alone", ""]
    lines.append("Numbers: what the label's log-odds lose when the word is left out.")
    return "".join(line + "\n" for line in lines)


def summary(statements: Sequence[Statement], labels: Sequence[str]) -> str:
    """How many sentences, how many of each intent, how many of none."""
    counts = [f"{label} {sum(label in s.intents for s in statements)}" for label in labels]
    none, unsure = sum(not s.intents for s in statements), sum(s.unsure for s in statements)
    doubts = f"; unsure {unsure}" if unsure else ""
    return f"{len(statements)} sentences: {', '.join(counts)}, none of these {none}{doubts}"


def _record(statement: Statement) -> dict[str, object]:
    return {
        "start": statement.start,
        "end": statement.end,
        "intents": list(statement.intents),
        "probabilities": {label: round(p, 4) for label, p in statement.probabilities.items()},
        "confidence": round(statement.confidence, 4),
        "unsure": statement.unsure,
        "text": statement.text,
    }


def _cell(text: str) -> str:
    return "'" + text if text.startswith(("'", *_FORMULA)) else text


def _named(intent: str, statement: Statement, labels: Sequence[str], colour: bool, width: int) -> str:
    doubt = " ?" if statement.unsure else ""
    text = f"{intent} {statement.probabilities[intent]:.2f}{doubt}".ljust(width)
    return f"\033[{_COLOURS[list(labels).index(intent) % len(_COLOURS)]}m{text}{_RESET}" if colour else text


def _marked(text: str, words: Sequence[Word], label: str) -> str:
    """The text with signs around the words: strong where a word has half the first's weight, weak below."""
    pieces, at = [], 0
    for word in sorted(words, key=lambda word: word.start):
        opening, closing = _STRONG if word.weights[label] >= words[0].weights[label] / 2 else _WEAK
        pieces += [printable(text[at : word.start]), opening, word.text, closing]
        at = word.end
    return "".join([*pieces, printable(text[at:])])


def _dressed(line: str, hue: str, colour: bool) -> str:
    for (opening, closing), stars, style in ((_STRONG, "**", "1;7"), (_WEAK, "*", "1")):
        line = line.replace(opening, f"\033[{style};{hue}m" if colour else stars)
        line = line.replace(closing, _RESET if colour else stars)
    return line
