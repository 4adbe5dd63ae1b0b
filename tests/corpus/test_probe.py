"""What the probes must find in made-up corpora, and what the `corpus` command does with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LABELS, write_corpus

from training import corpus, probe, realism
from training import outside as outside_texts
from training.__main__ import main
from training.errors import CorpusError
from training.giveaways import giveaways
from training.noise import noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _planted(folder: Path, word: str, label: str) -> None:
    """Lets `word` stand in every train text of `label`, and in no other text."""
    rows = _read(folder / "train.jsonl")
    for row in rows:
        if row["intents"] == [label]:
            row["text"] = row["text"].replace("said", f"{word} said")
    _write(folder / "train.jsonl", rows)


def _single(folder: Path) -> Path:
    """The same corpus with one label each."""
    for split in corpus.SPLITS:
        file = folder / f"{split}.jsonl"
        _write(file, [{**row, "intents": row["intents"][-1:] or ["none"]} for row in _read(file)])
    head = {"name": "n", "version": "1", "task": "single_label", "labels": [*LABELS, "none"]}
    (folder / "corpus.json").write_text(json.dumps(head))
    return folder


class TestNoise:
    def test_a_planted_wrong_label_comes_first(self, folder: Path) -> None:
        rows = _read(folder / "train.jsonl")
        assert rows[61]["intents"] == ["proposal"]
        rows[61]["intents"] = ["reaction"]
        _write(folder / "train.jsonl", rows)
        found = noise(corpus.load(folder))
        assert found[0].id == rows[61]["id"] and found[0].split == "train" and found[0].text == rows[61]["text"]
        assert found[0].given == ("reaction",) and found[0].suggested == ("proposal",)
        assert 0 <= found[0].score < 0.5 and [one.score for one in found] == sorted(one.score for one in found)

    def test_single_label(self, folder: Path) -> None:
        _single(folder)
        rows = _read(folder / "test.jsonl")
        assert rows[3]["intents"] == ["rejection"]
        rows[3]["intents"] = ["none"]
        _write(folder / "test.jsonl", rows)
        found = noise(corpus.load(folder))
        assert (found[0].id, found[0].given, found[0].suggested) == (rows[3]["id"], ("none",), ("rejection",))

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_labels_that_all_none_or_few_texts_have(self, folder: Path, count: int) -> None:
        for split in corpus.SPLITS:
            file = folder / f"{split}.jsonl"
            rows = [{**row, "intents": ["proposal"]} for row in _read(file)]
            if split == "train":
                for row, label in zip(rows, LABELS[1:count], strict=False):
                    row["intents"] = ["proposal", label]
            _write(file, rows)
        assert all("reaction" not in one.suggested for one in noise(corpus.load(folder)))

    def test_one_label(self, folder: Path) -> None:
        for split in corpus.SPLITS:
            file = folder / f"{split}.jsonl"
            _write(file, [{**row, "intents": ["reaction"] * ("reaction" in row["intents"])} for row in _read(file)])
        rows = _read(folder / "train.jsonl")
        rows[100]["intents"] = [] if rows[100]["intents"] else ["reaction"]
        _write(folder / "train.jsonl", rows)
        found = noise(corpus.load(folder))
        assert found[0].id == rows[100]["id"] and found[0].suggested != found[0].given == tuple(rows[100]["intents"])

    def test_the_same_twice(self, folder: Path) -> None:
        data = corpus.load(folder)
        assert noise(data, seed=3) == noise(data, seed=3)


class TestGiveaways:
    def test_a_planted_word_is_found(self, folder: Path) -> None:
        _planted(folder, "Gravely", "rejection")
        found = {one.word: one for one in giveaways(corpus.load(folder), None)}
        one = found["gravely"]
        assert (one.label, one.texts, one.share) == ("rejection", 40, 1.0)
        assert (one.outside_texts, one.outside_share, one.fault) == (None, None, False)
        assert "minister" not in found and "the" not in found and found["rained"].label == "none"

    @pytest.mark.parametrize(
        ("seen", "rejections", "texts", "share", "fault"),
        [(0, 0, 0, None, True), (4, 0, 4, None, False), (10, 5, 10, 0.5, True), (10, 6, 10, 0.6, False)],
    )
    def test_and_judged_by_life(
        self, folder: Path, tmp_path: Path, seen: int, rejections: int, texts: int, share: float | None, fault: bool
    ) -> None:
        _planted(folder, "gravely", "rejection")
        rows = [
            {"text": f"He spoke gravely, time {i}.", "intents": ["rejection"] * (i < rejections)} for i in range(seen)
        ]
        rows.append({"text": "A dry day.", "intents": []})
        _, outside = outside_texts.read(_write(tmp_path / "life.jsonl", rows), LABELS)
        data = corpus.load(folder)
        [one] = [one for one in giveaways(data, outside) if one.word == "gravely"]
        assert (one.outside_texts, one.outside_share, one.fault) == (texts, share, fault)

    def test_bounds(self, folder: Path) -> None:
        _planted(folder, "gravely", "rejection")
        data = corpus.load(folder)
        assert "gravely" not in {one.word for one in giveaways(data, None, minimum=41)}
        assert "gravely" in {one.word for one in giveaways(data, None, minimum=40)}
        # every word of a corpus with one label would "give it away"
        assert not [one for one in giveaways(data, None, share=0.1) if one.label == "reaction"]


def test_reach_is_the_baselines(folder: Path) -> None:
    found = probe.reach(corpus.load(folder))
    assert list(found) == ["macro_f1", *(f"f1_{label}" for label in LABELS)]
    assert found["macro_f1"] > 0.9 and found["macro_f1"] == pytest.approx(sum(list(found.values())[1:]) / 4)


class TestRealism:
    def test_halves_of_one_corpus_cannot_be_told_apart(self, folder: Path) -> None:
        # the tiny corpus says the same again and again, and a twin on the other side would mislead: other words
        random = np.random.default_rng(0)
        texts = [" ".join(f"w{number}" for number in random.zipf(1.3, 12) % 999) for _ in range(672)]
        for split in corpus.SPLITS:
            file = folder / f"{split}.jsonl"
            _write(file, [{**row, "text": texts.pop()} for row in _read(file)])
        assert len(texts) == 336
        assert 0.42 < realism.realism(corpus.load(folder), texts).auc < 0.58

    def test_other_texts_can(self, folder: Path) -> None:
        outside = [f"Honestly, my cat number {i} has eaten {i % 7} of your socks" for i in range(90)]
        found = realism.realism(corpus.load(folder), outside)
        assert found.auc > 0.99 and found.texts == 90 and found.kinds == {}
        assert {"minister", "said"} <= {one.word for one in found.corpus}
        assert {"cat", "socks"} <= {one.word for one in found.outside}
        assert len(found.corpus) <= realism.BETRAYERS and found.corpus[0].weight > 0 > found.outside[0].weight
        cat = next(one for one in found.outside if one.word == "cat")
        assert (cat.corpus, cat.outside) == (0, 1)

    def test_by_kind(self, folder: Path) -> None:
        rows = _read(folder / "train.jsonl")
        for i, row in enumerate(rows):
            row["kind"] = "wild" if i % 2 else "tame"
            if i % 2:
                row["text"] = f"Honestly, my cat number {i} has eaten {i % 7} of your socks"
        rows[0]["kind"] = "rare"
        _write(folder / "train.jsonl", rows)
        outside = [f"Honestly, my cat number {i} has eaten {i % 7} of your socks" for i in range(400, 700)]
        kinds = realism.realism(corpus.load(folder), outside).kinds
        assert set(kinds) == {"wild", "tame"} and kinds["tame"] > 0.95 and kinds["wild"] < kinds["tame"] - 0.2

    def test_too_little(self, folder: Path) -> None:
        with pytest.raises(CorpusError, match="at least 5 different outside texts, found 1"):
            realism.realism(corpus.load(folder), ["The same."] * 9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b'{"text": "a"}\n{broken\n', r"life\.jsonl:2: not JSON"),
        (b"[1]\n", "expected a JSON object, found list"),
        (b'{"text": " "}\n', r"life\.jsonl:1: text must be"),
        (b'{"text": "a", "intents": "proposal"}\n', "intents must be a list"),
        (b'{"text": "a", "intents": ["threat"]}\n', "'threat' is not one of proposal"),
        (b'{"text": "a", "intents": []}\n{"text": "b"}\n', "1 of 2 lines have intents"),
        (b'{"text": "\xe9"}\n', "not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_outside_file_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    file = tmp_path / "life.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        outside_texts.read(file, LABELS)
    assert main(["corpus", str(folder), "--against", str(file)]) == 2
    assert "Traceback" not in capsys.readouterr().err


class TestCommand:
    @pytest.fixture
    def clean(self, tmp_path: Path) -> Path:
        """The tiny corpus with a number of its own in each text, so that it has no near duplicate."""
        folder = write_corpus(tmp_path / "clean")
        for split in corpus.SPLITS:
            file = folder / f"{split}.jsonl"
            rows = _read(file)
            for row in rows:
                row["text"] = "".join(f"{word} {row['id'].replace('-', '')} " for word in row["text"].split())
            _write(file, rows)
        return folder

    def test_plain_looks_no_deeper(self, clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["corpus", str(clean), "--json"]) == 0
        assert set(json.loads(capsys.readouterr().out)) == {"statistics", "agreement", "faults"}

    def test_deep(self, clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "a" / "report"
        assert main(["corpus", str(clean), "--deep", "--out", str(out)]) == 0
        printed = capsys.readouterr().out
        assert (out / "report.txt").read_text() == printed
        assert "TF-IDF alone reaches" in printed and "words give a label away" in printed and "no fault" in printed
        report = json.loads((out / "report.json").read_text())
        assert {"reach", "giveaways", "noise"} <= set(report) and not {"realism", "against"} & set(report)
        assert {file.name for file in (out / "figures").iterdir()} == {"lengths.png", "labels.png"}

    def test_a_giveaway_that_life_does_not_know_is_a_fault(
        self, clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _planted(clean, "gravely", "rejection")
        rows = [{"text": f"It is day {i} of the fair.", "intents": []} for i in range(60)]
        out = tmp_path / "report"
        command = ["corpus", str(clean), "--against", str(_write(tmp_path / "life.jsonl", rows)), "--out", str(out)]
        assert main(command) == 1
        printed = capsys.readouterr().out
        assert "FAULT giveaway 'gravely': 100% of its 40 texts are rejection, but in" in printed
        assert "told from" in printed and "AUC" in printed
        assert {file.name for file in (out / "figures").iterdir()} == {
            "lengths.png",
            "labels.png",
            "betraying_words.png",
        }
        report = json.loads((out / "report.json").read_text())
        assert report["against"]["labelled"] and report["realism"]["auc"] > 0.9
        assert next(one for one in report["giveaways"] if one["word"] == "gravely")["fault"]

    def test_an_outside_file_without_intents(
        self, clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _planted(clean, "gravely", "rejection")
        file = _write(tmp_path / "life.jsonl", [{"text": f"It is day {i} of the fair."} for i in range(60)])
        assert main(["corpus", str(clean), "--against", str(file), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert not report["against"]["labelled"] and report["realism"]["texts"] == 60
        assert all(one["outside_texts"] is None for one in report["giveaways"])

    def test_duplicates_stay_faults(self, folder: Path) -> None:
        assert main(["corpus", str(folder), "--json"]) == 1

    def test_single_label(self, clean: Path, tmp_path: Path) -> None:
        out = tmp_path / "report"
        assert main(["corpus", str(_single(clean)), "--deep", "--out", str(out)]) == 0
        assert (out / "figures" / "labels.png").exists()

    def test_an_out_that_is_a_file(self, clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["corpus", str(clean), "--out", str(clean / "corpus.json")]) == 2
        assert "name another --out" in capsys.readouterr().err
