"""Texts of life, labelled or not, that a corpus is held against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.corpus import MAX_PROBLEMS, Split
from training.errors import CorpusError


def read(path: Path, labels: Sequence[str]) -> tuple[list[str], Split | None]:
    """Reads a file of them: a JSON object a line with text and, in all lines or in none, intents.

    Returns:
        The texts, and the labelled split, or None where the file has no intents. Ids are made up where missing.

    Raises:
        CorpusError: with every problem found (the first twenty in full), by line.
    """
    problems: list[str] = []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            row, found = _row(line, labels)
            problems += [f"{path}:{number}: {problem}" for problem in found]
            rows.append({"id": f"{path.stem}-{number}", **row})
    labelled = sum("intents" in row for row in rows)
    if not rows:
        problems.append(f"{path}: is empty; expected one JSON object a line, with text")
    elif not problems and labelled not in (0, len(rows)):
        problems.append(f"{path}: {labelled} of {len(rows)} lines have intents; give them to all lines or to none")
    if problems:
        more = len(problems) - MAX_PROBLEMS
        raise CorpusError("\n  ".join(problems[:MAX_PROBLEMS]) + (f"\n  … and {more} more" if more > 0 else ""))
    truth = np.array([[label in row.get("intents", ()) for label in labels] for row in rows], dtype=np.int8)
    return [row["text"] for row in rows], Split(path.stem, tuple(rows), truth) if labelled else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 (byte {error.start}); convert the file, e.g. with iconv.") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); expected a JSONL file.") from None


def _row(line: str, labels: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, [f"not JSON ({error})"]
    if not isinstance(row, dict):
        return {}, [f"expected a JSON object, found {type(row).__name__}"]
    problems = []
    if not isinstance(row.get("text"), str) or not row["text"].strip():
        problems.append("text must be a non-empty string")
    intents = row.get("intents", [])
    if not isinstance(intents, list):
        problems.append("intents must be a list of labels; leave the key out where there are none to tell")
    elif unknown := [intent for intent in intents if intent not in labels]:
        problems.append(f"label {unknown[0]!r} is not one of {', '.join(labels)}")
    return row, problems
