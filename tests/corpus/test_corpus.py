"""The corpus reader refuses by file and line; the shipped corpus keeps its rules."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import write_corpus

from training import audit, corpus
from training.errors import CorpusError

ROOT = Path(__file__).resolve().parent.parent.parent
SHIPPED = ROOT / "datasets" / "statements"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def _edit(folder: Path, line: int, **changes: object) -> None:
    file = folder / "train.jsonl"
    lines = file.read_text().splitlines()
    lines[line - 1] = json.dumps({**json.loads(lines[line - 1]), **changes})
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intents": ["threat"]}, "label 'threat' is not one of proposal, condition, rejection, reaction"),
        ({"intents": ["reaction", "proposal"]}, "in the order proposal"),
        ({"intents": ["proposal", "proposal"]}, "distinct"),
        ({"intents": "proposal"}, "intents must be a list"),
        ({"id": "train-0-0"}, r"id 'train-0-0' stands already at .*train\.jsonl:1"),
        ({"id": 7}, "id must be a non-empty string"),
        ({"text": "  "}, "text must be a non-empty string"),
        ({"scenario": "test-50"}, "scenario 'test-50' is in both train and test"),
    ],
)
def test_a_wrong_line_is_named(folder: Path, changes: dict[str, object], message: str) -> None:
    _edit(folder, 3, **changes)
    with pytest.raises(CorpusError, match=message) as caught:
        corpus.load(folder)
    if "scenario" not in changes:
        assert "train.jsonl:3" in str(caught.value)


def test_all_wrong_lines_come_at_once(folder: Path) -> None:
    _edit(folder, 2, text="")
    _edit(folder, 5, intents=["x"])
    with pytest.raises(CorpusError, match=r"(?s)train\.jsonl:2.*train\.jsonl:5"):
        corpus.load(folder)


def test_broken_files(folder: Path, tmp_path: Path) -> None:
    train = folder / "train.jsonl"
    good = train.read_bytes()
    for content, message in (
        (b"{}\n{broken\n", r"train\.jsonl:2: not JSON"),
        (good + b'{"id": "\xe9"}\n', r"train\.jsonl:\d+: not UTF-8"),
        (b"[1]\n", "expected a JSON object"),
        (b"", "is empty"),
    ):
        train.write_bytes(content)
        with pytest.raises(CorpusError, match=message):
            corpus.load(folder)
    train.unlink()
    with pytest.raises(CorpusError, match="no such file"):
        corpus.load(folder)
    with pytest.raises(CorpusError, match="no such corpus folder"):
        corpus.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("{", "not JSON"),
        ("{}", "name must be"),
        ('{"name":"x","version":"1","task":"t","labels":["a"]}', "task must be"),
    ],
)
def test_a_wrong_head(folder: Path, head: str, message: str) -> None:
    (folder / "corpus.json").write_text(head)
    with pytest.raises(CorpusError, match=message):
        corpus.load(folder)


def test_the_digest_moves_with_the_data(folder: Path) -> None:
    before = corpus.load(folder).sha256
    _edit(folder, 1, text="Something else was said.")
    assert corpus.load(folder).sha256 != before


def test_any_labels_train_alike(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "c")
    for split in corpus.SPLITS:
        file = folder / f"{split}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text(
            "".join(json.dumps({**row, "intents": [["x", "y"][len(row["intents"]) % 2]]}) + "\n" for row in rows)
        )
    (folder / "corpus.json").write_text('{"name": "n", "version": "1", "task": "single_label", "labels": ["x", "y"]}')
    data = corpus.load(folder)
    assert data.labels == ("x", "y") and data.train.truth.sum(axis=1).tolist() == [1] * len(data.train)


def test_duplicates_across_scenarios_are_faults(folder: Path) -> None:
    text = "The envoy of Fiji left Geneva on Monday without a word to the press."
    _edit(folder, 4, text=text)
    assert not [fault for fault in audit.duplicates(corpus.load(folder)) if "Fiji" in fault]
    _edit(folder, 9, text=text)
    faults = [fault for fault in audit.duplicates(corpus.load(folder)) if "Fiji" in fault]
    assert len(faults) == 1 and faults[0].startswith("the same text in train (train-0-3) and train (train-1-2)")
    assert audit.report(folder) == 1


def test_near_duplicates_are_found() -> None:
    one = "The two sides agreed on Friday to reopen the crossing at Torkham for lorries carrying food and medicine."
    grams = [set(re.findall(r"\w+", one))]
    places = [("train", {"id": "a", "text": one}), ("test", {"id": "b", "text": one + " Today."})]
    assert "nearly the same" in audit._likeness(places, grams, 0, 1, grams[0] | {"today"})[0]


def test_agreement_is_the_libraries(folder: Path) -> None:
    for line in range(1, 41):
        row = json.loads((folder / "train.jsonl").read_text().splitlines()[line - 1])
        second = row["intents"] if line % 8 else [*row["intents"], "reaction"]
        _edit(folder, line, labels_first=row["intents"], labels_second=second)
    found = audit.agreement(corpus.load(folder))
    assert found["texts"] == 40 and found["exact"] == pytest.approx(35 / 40)
    assert 0 < found["kappa_reaction"] < 1 and found["alpha_rejection"] == 1


@pytest.fixture(scope="module")
def data() -> corpus.Corpus:
    return corpus.load(SHIPPED)


class TestShipped:
    """Rules that the project's own corpus must keep."""

    def test_no_fault(self, data: corpus.Corpus) -> None:
        assert audit.faults(data) == []

    def test_size(self, data: corpus.Corpus) -> None:
        numbers = audit.statistics(data)
        assert numbers["texts"] >= 6000 and numbers["scenarios"] >= 500
        counts = {key: sum(split[key] for split in numbers["splits"].values()) for key in numbers["splits"]["train"]}
        assert counts["condition"] >= 600 and counts["rejection"] >= 600 and counts["two_or_more"] >= 600
        assert counts["proposal"] >= 1200 and counts["reaction"] >= 1500 and counts["none"] >= 2700

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_held_out_splits_have_lifes_prevalence(self, data: corpus.Corpus, split: str) -> None:
        truth = getattr(data, split).truth
        shares = dict(zip(data.labels, truth.mean(axis=0), strict=True)) | {"none": (~truth.any(axis=1)).mean()}
        life = {"none": 0.45, "proposal": 0.20, "condition": 0.06, "rejection": 0.07, "reaction": 0.28}
        assert {
            name: round(float(share - life[name]), 2)
            for name, share in shares.items()
            if abs(share - life[name]) > 0.03
        } == {}

    def test_every_row_carries_both_readings_and_its_settling(self, data: corpus.Corpus) -> None:
        for split in data.splits:
            for row in split.rows:
                if row["labels_first"] == row["labels_second"]:
                    assert row["intents"] == row["labels_first"] or "settled" in row, row["id"]
                else:
                    assert row["settled"], row["id"]

    def test_documents_can_be_put_together_again(self, data: corpus.Corpus) -> None:
        places: dict[str, list[int]] = {}
        for split in data.splits:
            for row in split.rows:
                if "document" in row:
                    places.setdefault(row["document"], []).append(row["position"])
        assert len(places) >= 20
        for name, positions in places.items():
            assert len(set(positions)) == len(positions), name

    def test_hugging_face_datasets_loads_the_folder_offline(
        self, data: corpus.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        monkeypatch.chdir(ROOT)
        loaded = datasets.load_dataset("datasets/statements", cache_dir=str(tmp_path))
        assert {name: len(loaded[name]) for name in loaded} == {split.name: len(split) for split in data.splits}
        assert loaded["test"][0]["text"] == data.test.rows[0]["text"]

    def test_the_version_is_the_cards(self, data: corpus.Corpus) -> None:
        card = (ROOT / "datasets" / "README.md").read_text(encoding="utf-8")
        assert f"Version {data.version}" in card and data.sha256[:12] in card
