"""A labelled corpus: its schema, its splits, and one digest over all of it.

A corpus is a folder:

    corpus.json          {"name", "version", "task": "multi_label" | "single_label", "labels": [...]}
    train.jsonl          one JSON object a line: id, text, intents, scenario, and whatever else
    validation.jsonl
    test.jsonl

Labels, their order and the task come from `corpus.json`, never from code. `scenario` groups what must not
be parted: resampling and splitting go by it.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from communique.bundle import MAX_LABELS, MAX_NAME, is_name
from training.errors import CorpusError
from training.files import sha256

SPLITS = ("train", "validation", "test")
Task = Literal["multi_label", "single_label"]
MAX_PROBLEMS = 20  # shown at a time
_ESCAPED, _SURROGATE = re.compile(r"\\u[dD][89a-fA-F]"), re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Split:
    """Labelled texts.

    Attributes:
        name: "train", "validation", "test", or the stem of a file.
        rows: the records as read.
        truth: int8 array (texts, labels) of 0 and 1.
    """

    name: str
    rows: tuple[Mapping[str, Any], ...]
    truth: npt.NDArray[np.int8]

    @property
    def texts(self) -> list[str]:
        """The texts, in order."""
        return [row["text"] for row in self.rows]

    @property
    def groups(self) -> list[str]:
        """What each text is resampled with: its scenario, or itself."""
        return [str(row.get("scenario", row["id"])) for row in self.rows]

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.rows)


@dataclass(frozen=True)
class Corpus:
    """A corpus in memory, checked against its schema."""

    folder: Path
    name: str
    version: str
    task: Task
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    sha256: str

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Train, validation and test."""
        return self.train, self.validation, self.test


def load(folder: str | Path) -> Corpus:
    """Reads a corpus folder and checks schema, labels and ids over all three splits.

    Raises:
        CorpusError: with every problem found (the first twenty in full), by file and line.
    """
    root = Path(folder)
    head = _head(root)
    problems: list[str] = []
    seen: dict[str, str] = {}
    splits = [
        read_split(root / f"{name}.jsonl", head["labels"], head["task"], name=name, seen=seen, problems=problems)
        for name in SPLITS
    ]
    if not problems:
        problems += _leaks(splits)
    _raise(problems)
    return Corpus(
        folder=root,
        name=head["name"],
        version=head["version"],
        task=head["task"],
        labels=tuple(head["labels"]),
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        sha256=digest(root),
    )


def without_test(corpus: Corpus) -> Corpus:
    """The corpus with an empty test split, for whatever must not choose by it."""
    return replace(corpus, test=replace(corpus.test, rows=(), truth=corpus.test.truth[:0]))


def digest(folder: Path) -> str:
    """One SHA-256 over the splits and their names: the identity of the data."""
    combined = hashlib.sha256()
    for name in ("corpus.json", *(f"{split}.jsonl" for split in SPLITS)):
        combined.update(f"{sha256(folder / name)}  {name}\n".encode())
    return combined.hexdigest()


def load_file(path: str | Path, labels: Sequence[str], task: Task) -> Split:
    """Reads one labelled JSONL file, such as an outside evaluation set.

    Raises:
        CorpusError: with every problem found, by line.
    """
    problems: list[str] = []
    split = read_split(Path(path), labels, task, name=Path(path).stem, seen={}, problems=problems)
    _raise(problems)
    return split


def read_split(
    path: Path, labels: Sequence[str], task: Task, *, name: str, seen: dict[str, str], problems: list[str]
) -> Split:
    """Reads a split; what is wrong is added to `problems`, ids to `seen` (id -> where it stood)."""
    rows = []
    shared = {label: label for label in labels}  # a million rows hold each label once
    for number, line in enumerate(_lines(path, problems), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = _parsed(line, where, problems)
        if row is None:
            continue
        found = _problems_of(row, labels, task)
        identity = str(row.get("id"))
        if identity in seen:
            found.append(f"id {identity!r} stands already at {seen[identity]}; ids must be unique")
        seen[identity] = where
        problems += [f"{where}: {problem}" for problem in found]
        if not found:
            row["intents"] = [shared[intent] for intent in row["intents"]]
            rows.append(row)
    if not rows and not problems:
        problems.append(f"{path}: is empty; expected one JSON object a line")
    truth = np.fromiter((label in row["intents"] for row in rows for label in labels), dtype=np.int8)
    return Split(name, tuple(rows), truth.reshape(len(rows), len(labels)))


def _head(root: Path) -> dict[str, Any]:
    file = root / "corpus.json"
    if not root.is_dir():
        raise CorpusError(f"{root}: no such corpus folder.")
    try:
        head = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorpusError(f"{file}: is missing; expected name, version, task and labels in it.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"{file}: not JSON ({error}).") from None
    problems = []
    for key, kind in (("name", str), ("version", str), ("task", str), ("labels", list)):
        if not isinstance(head, dict) or not isinstance(head.get(key), kind):
            problems.append(f"{file}: {key} must be a {kind.__name__}")
    if not problems and head["task"] not in ("multi_label", "single_label"):
        problems.append(f"{file}: task must be multi_label or single_label, found {head['task']!r}")
    if not problems and not all(map(is_name, head["labels"])):  # the names that a bundle takes
        problems.append(f"{file}: labels must be printable texts of 1 to {MAX_NAME} characters")
    elif not problems and not 1 <= len(set(head["labels"])) == len(head["labels"]) <= MAX_LABELS:
        problems.append(f"{file}: labels must be distinct and 1 to {MAX_LABELS}")
    _raise(problems)
    return dict(head)


def _lines(path: Path, problems: list[str]) -> Iterator[str]:
    read = 0
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    yield line.decode("utf-8")
                except UnicodeDecodeError as error:
                    place = read + error.start
                    problems.append(f"{path}:{number}: not UTF-8 (byte {place}); convert the file, e.g. with iconv")
                    return
                read += len(line)
    except FileNotFoundError:
        problems.append(f"{path}: no such file")
    except IsADirectoryError:
        problems.append(f"{path}: is a folder; expected a JSONL file")
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")


def _parsed(line: str, where: str, problems: list[str]) -> dict[str, Any] | None:
    try:
        row = json.loads(line, object_pairs_hook=_object)
        broken = _ESCAPED.search(line) and _SURROGATE.search(json.dumps(row, ensure_ascii=False))
    except (ValueError, RecursionError) as error:
        problems.append(f"{where}: not JSON ({error})")
        return None
    if not isinstance(row, dict):
        problems.append(f"{where}: expected a JSON object, found {type(row).__name__}")
        return None
    if broken:
        problems.append(f"{where}: holds half a character (one of \\ud800 to \\udfff alone); write the text as UTF-8")
        return None
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are shared with all others': a million rows hold each of them once."""
    return {sys.intern(key): value for key, value in pairs}


def _problems_of(row: Mapping[str, Any], labels: Sequence[str], task: Task) -> list[str]:
    problems = []
    if not isinstance(row.get("id"), str) or not row["id"]:
        problems.append("id must be a non-empty string")
    if not isinstance(row.get("text"), str) or not row["text"].strip():
        problems.append("text must be a non-empty string")
    intents = row.get("intents")
    if not isinstance(intents, list):
        return [*problems, "intents must be a list of labels"]
    if unknown := [intent for intent in intents if intent not in labels]:
        problems.append(f"label {unknown[0]!r:.100} is not one of {', '.join(labels)}")
    elif [label for label in labels if label in intents] != intents:
        problems.append(f"intents must be distinct and in the order {', '.join(labels)}, found {intents}")
    if task == "single_label" and len(intents) != 1:
        problems.append(f"a single-label corpus needs exactly one label, found {len(intents)}")
    return problems


def _leaks(splits: Sequence[Split]) -> list[str]:
    home: dict[str, str] = {}
    problems = []
    for split in splits:
        for scenario in dict.fromkeys(split.groups):
            if home.setdefault(scenario, split.name) != split.name:
                problems.append(f"scenario {scenario!r} is in both {home[scenario]} and {split.name}; keep it in one")
    return problems


def _raise(problems: list[str]) -> None:
    if problems:
        shown = problems[:MAX_PROBLEMS]
        more = len(problems) - len(shown)
        raise CorpusError("\n  ".join(shown) + (f"\n  … and {more} more" if more else ""))
