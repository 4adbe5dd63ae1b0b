"""What earlier versions made still loads, answers, and goes through every command; tests/fixtures/make.py wrote it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import communique
from communique import golden
from tests.conftest import ROOT
from training import config, run
from training.__main__ import main
from training.train import train

VERSIONS = sorted(child for child in (ROOT / "tests" / "fixtures").iterdir() if (child / "answers.json").exists())
TOLERANCE = {"fp32": 1e-4, "int8": 0.05}  # int8 kernels differ by processor

each = pytest.mark.parametrize("made", VERSIONS, ids=lambda folder: folder.name)


@pytest.fixture
def runs(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of its own with the earlier run in runs/, where what its config names is found."""
    monkeypatch.chdir(tmp_path)
    for name in ("tests", "datasets", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(made / "run", tmp_path / "runs" / "earlier")
    return tmp_path / "runs"


def test_the_last_release_is_among_them() -> None:
    released = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert VERSIONS and all(f"## {folder.name}" in released for folder in VERSIONS)
    assert sum(file.stat().st_size for folder in VERSIONS for file in folder.rglob("*")) < len(VERSIONS) * 2**20


@each
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_earlier_bundle_answers_as_it_did(made: Path, precision: str) -> None:
    recorded = json.loads((made / "answers.json").read_text(encoding="utf-8"))
    classifier = communique.load(made / "bundle", threads=1, precision=precision)
    found = classifier.predict_proba(recorded["texts"])
    assert np.abs(found - np.array(recorded[precision])).max() < TOLERANCE[precision]
    if precision == "fp32":
        assert [list(one.intents) for one in classifier(recorded["texts"])] == recorded["intents"]
    assert "golden texts answered" in golden.check(made / "bundle")


@each
def test_an_earlier_run_is_found_and_evaluated_to_the_same_figures(made: Path, runs: Path) -> None:
    before = json.loads((made / "run" / "metrics.json").read_text())
    assert run.find("tiny") == Path("runs/earlier")
    assert main(["evaluate", "tiny"]) == 0
    after = json.loads((runs / "earlier" / "metrics.json").read_text())
    figures = [name for name in before if name.startswith("test/")]
    assert len(figures) > 20 and {name: after[name] for name in figures} == pytest.approx(
        {name: before[name] for name in figures}, abs=1e-3
    )


@each
def test_an_earlier_run_is_reported_and_compared_with_a_new_one(
    made: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = (made / "corpus").relative_to(ROOT)
    train(config.load("configs/tfidf.yaml", [f"corpus={corpus}", "min_count=1"]), Path("runs/new"), track=False)
    assert main(["report", "tiny"]) == 0
    assert "macro" in (runs / "earlier" / "report.html").read_text(encoding="utf-8")
    assert main(["compare", "tiny", "tfidf", "--no-track", "--out", "compared"]) == 0
    assert main(["runs"]) == 0
    printed = capsys.readouterr().out
    assert "tiny" in printed and "tfidf" in printed and Path("compared/comparison.json").exists()
