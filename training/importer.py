"""Anybody's labelled texts to a corpus folder: CSV, TSV, JSONL, Parquet, or a Hugging Face dataset folder.

Hugging Face `datasets` reads the files (through Arrow, so a file may be larger than memory); given splits are
kept, missing ones are cut from train by group and stratified by label set.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit

from communique.bundle import MAX_LABELS, MAX_NAME, is_name, write_sums
from training.console import say
from training.corpus import SPLITS, load
from training.errors import CorpusError

READERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
HELD = {"validation": 0.1, "test": 0.15}  # share of all texts, where a split is not given
RARE = 10  # a label set with fewer texts is stratified together with the other rare ones
MAX_PROBLEMS = 10
BATCH = 1000  # rows at a time: Arrow is slow one by one


@dataclass(frozen=True)
class Columns:
    """Which columns hold what.

    Attributes:
        text, labels: column names.
        group: column of what must not be parted; None: every text by itself.
        separator: splits a string of several labels, making the corpus multi-label; None: the string is one label.
    """

    text: str
    labels: str
    group: str | None = None
    separator: str | None = None


def convert(
    files: Mapping[str, Path], columns: Columns, output: Path, *, name: str | None = None, seed: int = 0
) -> Path:
    """Writes a corpus folder from one to three files, or from one dataset folder under "train".

    Args:
        files: split names to files; "train" is needed, a folder there may hold all splits.
        columns: where text and labels are.
        output: the folder to make; it must not be there.
        name: of the corpus; None: the output folder's.
        seed: of the split.

    Raises:
        CorpusError: a file, column or value is not what is needed, by file and row.
    """
    if output.exists():
        raise CorpusError(f"{output}: is there already; name another --out or remove it.")
    _make(files, columns, output, name or output.name, seed)  # a function: its rows are gone before they are read back
    corpus = load(output)
    counts = ", ".join(f"{split.name} {len(split)}" for split in corpus.splits)
    say(f"{output}: {corpus.task}, {len(corpus.labels)} labels, {counts}")
    return output


def _make(files: Mapping[str, Path], columns: Columns, output: Path, name: str, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="communique-import-") as scratch:
        tables = _tables(files, scratch)
        problems: list[str] = []
        rows = {split: list(_rows(table, split, columns, problems)) for split, table in tables.items()}
        if problems:
            raise CorpusError("\n  ".join(problems[:MAX_PROBLEMS]))
    several = any(isinstance(row["intents"], list) for split in rows.values() for row in split)
    labels = _labels(rows)
    position = {label: i for i, label in enumerate(labels)}
    for split in rows.values():
        for row in split:
            one = row["intents"] if isinstance(row["intents"], list) else [row["intents"]]
            row["intents"] = sorted(set(one), key=position.__getitem__)
    rows = _with_missing_splits(rows, seed)
    head = {
        "name": name,
        "version": "1.0.0",
        "task": "multi_label" if several else "single_label",
        "labels": labels,
    }
    _write(output, head, rows)


def _tables(files: Mapping[str, Path], scratch: str) -> dict[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    tables: dict[str, Any] = {}
    for split, file in files.items():
        if not file.exists():
            raise CorpusError(f"{file}: no such file.")
        try:
            if file.is_dir():
                found = datasets.load_dataset(str(file), cache_dir=scratch)
                tables |= {name: found[name] for name in found if name in SPLITS}
                continue
            kind = READERS.get(file.suffix.lower())
            if kind is None:
                raise CorpusError(
                    f"{file}: expected {', '.join(READERS)} or a folder, found {file.suffix or 'no suffix'!r}."
                )
            options = {"sep": "\t"} if file.suffix.lower() == ".tsv" else {}
            tables[split] = datasets.load_dataset(
                kind, data_files=str(file), split="train", cache_dir=scratch, **options
            )
        except CorpusError:
            raise
        except Exception as error:  # each reader has its own; of an empty file a bare StopIteration
            reason = next(iter(str(error.__cause__ or error).splitlines()), "") or "it is empty"
            raise CorpusError(f"{file}: cannot be read ({reason}).") from None
    if "train" not in tables:
        raise CorpusError("no train split was found; name a file for it.")
    return tables


def _rows(table: Any, split: str, columns: Columns, problems: list[str]) -> Iterator[dict[str, Any]]:
    wanted = [columns.text, columns.labels, *([columns.group] if columns.group else [])]
    if missing := [column for column in wanted if column not in table.column_names]:
        problems.append(f"{split}: no column {missing[0]!r}; there are {', '.join(table.column_names)}.")
        return
    for number, record in enumerate(_records(table.select_columns(wanted)), 1):
        text, labels = record[columns.text], record[columns.labels]
        if not isinstance(text, str) or not text.strip():
            problems.append(f"{split}, row {number}: {columns.text} must be a text, found {text!r}")
        elif labels is None or (isinstance(labels, float) and np.isnan(labels)) or not str(labels).strip():
            if columns.separator is None:
                problems.append(f"{split}, row {number}: {columns.labels} is empty; a single-label row needs one")
            else:
                labels = []
        if len(problems) >= MAX_PROBLEMS:
            return
        if isinstance(labels, str) and columns.separator is not None:
            labels = [part.strip() for part in labels.split(columns.separator) if part.strip()]
        intents = [sys.intern(str(label)) for label in labels] if isinstance(labels, list) else sys.intern(str(labels))
        identity = f"{split}-{number}"
        group = str(record[columns.group]) if columns.group else identity
        yield {"id": identity, "text": text, "intents": intents, "scenario": group}


def _records(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.iter(batch_size=BATCH):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _labels(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    found = {
        label
        for split in rows.values()
        for row in split
        for label in (row["intents"] if isinstance(row["intents"], list) else [row["intents"]])
    }
    if not 1 < len(found) <= MAX_LABELS:
        raise CorpusError(f"expected 2 to {MAX_LABELS} labels, found {len(found)}; is it the right column?")
    if strange := sorted(label for label in found if not is_name(label)):
        raise CorpusError(
            f"expected labels to be printable texts of 1 to {MAX_NAME} characters, found {strange[0]!r:.100}; "
            "is it the right column?"
        )
    return sorted(found)


def _with_missing_splits(rows: dict[str, list[dict[str, Any]]], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Cuts validation and test from train where they are not given; a group goes whole."""
    for split in ("test", "validation"):
        if split in rows:
            continue
        train = rows["train"]
        share = HELD[split] / (1 - HELD["test"]) if split == "validation" and "test" in rows else HELD[split]
        chosen = _held(train, share, seed)
        rows[split] = [train[i] for i in np.flatnonzero(chosen)]
        rows["train"] = [train[i] for i in np.flatnonzero(~chosen)]
        if not rows[split] or not rows["train"]:
            raise CorpusError(f"too few groups to cut a {split} split from; give one with --{split}.")
    return {split: rows[split] for split in SPLITS}


def _held(train: Sequence[Mapping[str, Any]], share: float, seed: int) -> npt.NDArray[np.bool_]:
    sets = [" ".join(row["intents"]) for row in train]
    counts = Counter(sets)
    kinds = {one: one if count >= RARE else "rare" for one, count in counts.items()}
    codes = {kind: code for code, kind in enumerate(sorted(set(kinds.values())))}
    strata = np.array([codes[kinds[one]] for one in sets])
    groups = [row["scenario"] for row in train]
    chosen = np.zeros(len(train), dtype=np.bool_)
    places = np.zeros((len(train), 0))
    if len(set(groups)) == len(groups) and np.bincount(strata).min() >= 2:
        cut = StratifiedShuffleSplit(1, test_size=share, random_state=seed)
        chosen[next(cut.split(places, strata))[1]] = True
    else:
        folds = min(max(2, round(1 / share)), len(set(groups)))
        if folds < 2:
            return chosen
        cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        chosen[next(cut.split(places, strata, groups))[1]] = True
    return chosen


def _write(output: Path, head: Mapping[str, Any], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (partial / "corpus.json").write_text(json.dumps(head, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for split in SPLITS:
            with (partial / f"{split}.jsonl").open("w", encoding="utf-8") as stream:
                stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[split])
        write_sums(partial)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
