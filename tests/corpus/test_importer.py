"""Anybody's texts become a corpus that every command takes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from training import config, corpus
from training.errors import CorpusError
from training.importer import Columns, convert
from training.train import train


@pytest.fixture
def frame() -> pandas.DataFrame:
    words = {"sport": "goal match team", "trade": "tariff duty quota", "weather": "rain wind snow"}
    rows = []
    for number in range(240):
        topic = list(words)[number % 3]
        cue = words[topic].split()[number % 2]
        rows.append({"body": f"The {cue} of day {number} was noted.", "topic": topic, "source": f"s{number // 6}"})
    return pandas.DataFrame(rows)


def _write(frame: pandas.DataFrame, file: Path) -> Path:
    if file.suffix == ".parquet":
        frame.to_parquet(file)
    elif file.suffix == ".jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_csv(file, index=False, sep="\t" if file.suffix == ".tsv" else ",")
    return file


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_corpus(frame: pandas.DataFrame, tmp_path: Path, suffix: str) -> None:
    out = convert(
        {"train": _write(frame, tmp_path / f"a.{suffix}")},
        Columns("body", "topic", "source"),
        tmp_path / "out",
        name="n",
    )
    data = corpus.load(out)
    assert data.task == "single_label" and data.labels == ("sport", "trade", "weather")
    assert sum(len(split) for split in data.splits) == 240
    assert not set(data.train.groups) & set(data.test.groups) and not set(data.train.groups) & set(
        data.validation.groups
    )
    for split in data.splits:
        assert (split.truth.mean(axis=0) > 0.2).all(), "stratified by label"


def test_what_was_imported_trains(frame: pandas.DataFrame, tmp_path: Path) -> None:
    out = convert({"train": _write(frame, tmp_path / "a.csv")}, Columns("body", "topic"), tmp_path / "out")
    folder = train(config.load("configs/tfidf.yaml", [f"corpus={out}"]), tmp_path / "run", track=False)
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["test/macro_f1"] == 1.0 and "test/f1_weather" in figures


def test_several_labels_in_a_string(tmp_path: Path) -> None:
    rows = pandas.DataFrame({"t": [f"Text {i}" for i in range(60)], "l": ["a; b", "a", ""] * 20})
    out = convert({"train": _write(rows, tmp_path / "m.csv")}, Columns("t", "l", separator=";"), tmp_path / "out")
    data = corpus.load(out)
    assert data.task == "multi_label" and data.labels == ("a", "b")
    assert (~data.train.truth.any(axis=1)).any()


def test_given_splits_are_kept(frame: pandas.DataFrame, tmp_path: Path) -> None:
    files = {"train": _write(frame[:200], tmp_path / "a.csv"), "test": _write(frame[200:], tmp_path / "b.csv")}
    data = corpus.load(convert(files, Columns("body", "topic"), tmp_path / "out"))
    assert data.test.texts == frame["body"][200:].tolist() and len(data.train) + len(data.validation) == 200


@pytest.mark.parametrize(
    ("columns", "content", "message"),
    [
        (Columns("nope", "topic"), None, "no column 'nope'; there are body, topic, source"),
        (Columns("body", "topic"), "body,topic\n,x\nb,y\n", "train, row 1: body must be a text"),
        (Columns("body", "topic"), "body,topic\na,x\nb,\n", "row 2: topic is empty"),
        (Columns("body", "topic"), "body,topic\na,x\nb,x\n", "expected 2 to 1000 labels, found 1"),
        (Columns("body", "topic"), "", "cannot be read"),
    ],
)
def test_bad_tables_are_refused(
    frame: pandas.DataFrame, tmp_path: Path, columns: Columns, content: str | None, message: str
) -> None:
    file = _write(frame, tmp_path / "a.csv")
    if content is not None:
        file.write_text(content)
    with pytest.raises(CorpusError, match=message):
        convert({"train": file}, columns, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_odd_files_are_named(frame: pandas.DataFrame, tmp_path: Path) -> None:
    file = _write(frame, tmp_path / "a.csv")
    with pytest.raises(CorpusError, match="is there already"):
        convert({"train": file}, Columns("body", "topic"), tmp_path)
    with pytest.raises(CorpusError, match="no such file"):
        convert({"train": tmp_path / "z.csv"}, Columns("body", "topic"), tmp_path / "out")
    with pytest.raises(CorpusError, match=r"expected \.csv"):
        convert({"train": file.rename(tmp_path / "a.xls")}, Columns("body", "topic"), tmp_path / "out")
