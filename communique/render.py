"""Statements to text: a table for the terminal, and JSON lines for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence

from communique.classifier import Statement

_COLOURS = ("36", "33", "31", "35", "32", "34")  # by the label's place; the word stands beside it always


def json_lines(statements: Iterable[Statement], source: str | None = None) -> str:
    """One JSON object a line: text, intents, probabilities, start, end, and the file where given."""
    lines = []
    for statement in statements:
        record: dict[str, object] = {"file": source} if source is not None else {}
        record |= {
            "start": statement.start,
            "end": statement.end,
            "intents": list(statement.intents),
            "probabilities": {label: round(p, 4) for label, p in statement.probabilities.items()},
            "text": statement.text,
        }
        lines.append(json.dumps(record, ensure_ascii=False))
    return "".join(line + "\n" for line in lines)


def table(statements: Sequence[Statement], labels: Sequence[str], *, width: int = 100, colour: bool = False) -> str:
    """Sentence by sentence: the intents with their probabilities at the left, the text wrapped at the right."""
    names = max([len(label) for label in labels] + [10]) + 5
    room = max(width - names - 2, 30)
    rows = []
    for statement in statements:
        left = [_named(intent, statement, labels, colour, names) for intent in statement.intents] or [" " * names]
        right = textwrap.wrap(" ".join(statement.text.split()), room) or [""]
        for line in range(max(len(left), len(right))):
            head = left[line] if line < len(left) else " " * names
            rows.append(f"{head}  {right[line] if line < len(right) else ''}".rstrip())
    return "".join(row + "\n" for row in [*rows, "", _summary(statements, labels)])


def _named(intent: str, statement: Statement, labels: Sequence[str], colour: bool, width: int) -> str:
    text = f"{intent} {statement.probabilities[intent]:.2f}".ljust(width)
    return f"\033[{_COLOURS[list(labels).index(intent) % len(_COLOURS)]}m{text}\033[0m" if colour else text


def _summary(statements: Sequence[Statement], labels: Sequence[str]) -> str:
    counts = [f"{label} {sum(label in s.intents for s in statements)}" for label in labels]
    none = sum(not s.intents for s in statements)
    return f"{len(statements)} sentences: {', '.join(counts)}, none of these {none}"
