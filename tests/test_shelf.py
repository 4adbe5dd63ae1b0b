"""The list of runs tells finished from interrupted; deleting weights leaves every figure."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from training import checkpoint, compare, config, corpus, run, shelf
from training.__main__ import main
from training.errors import RunError
from training.tracking import Tracker
from training.train import restore


@pytest.fixture
def runs(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs: one finished, one cut short, and something else."""
    folder = tmp_path / "runs"
    shutil.copytree(tiny_run, folder / "whole")
    shutil.copytree(tiny_run, folder / "cut")
    (folder / "cut" / run.DONE).unlink()
    (folder / "notes").mkdir()
    monkeypatch.setattr(run, "RUNS", folder)
    return folder


def test_interrupted_runs_are_marked_and_used_for_nothing(
    store: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [(one.folder.name, one.state) for one in shelf.entries()] == [("whole", "finished"), ("cut", "interrupted")]
    assert main(["runs"]) == 0
    printed = capsys.readouterr().out
    assert "never compared" in printed and "GiB free" in printed
    for command in (["promote"], ["compare", str(runs / "whole")], ["export"], ["runs", "--delete-weights"]):
        assert main([*command, str(runs / "cut")]) == 2
        assert "is not a finished run" in capsys.readouterr().err


def test_deleting_weights_keeps_what_was_measured(store: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = runs / "whole"
    before = {file: file.read_bytes() for file in whole.rglob("*") if file.is_file() and file.parent.name != "model"}
    weights = shelf.entries()[0].weights
    assert weights > 10_000
    with pytest.raises(RunError):
        shelf.delete_weights([str(whole), str(runs / "cut")])
    assert shelf.entries()[0].weights == weights, "one that is none spares all"

    assert main(["runs", "--delete-weights", str(whole)]) == 0
    assert "deleted" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith(str(whole)))
    assert {file: file.read_bytes() for file in whole.rglob("*") if file.is_file()} == before
    assert compare.read(whole, "test").answers
    with pytest.raises(RunError, match="its weights were deleted"):
        restore(whole)


def test_a_killed_training_is_marked_where_it_lies_and_in_mlflow(
    store: str, runs: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    cut, settings = runs / "cut", config.load(tiny_run / "config.yaml")
    tracker = Tracker.start(cut, settings, corpus.load(settings.corpus))
    run.mark(cut, status="running")
    logged = MlflowClient(tracking_uri=store).get_run

    def listed() -> str:
        assert main(["runs"]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith(str(cut))).split()[1]

    with checkpoint.alone(cut):  # as its training does
        assert listed() == "running" and run.begun(cut)["status"] == "running"
        assert logged(tracker.run_id).info.status == "RUNNING"
    assert listed() == run.begun(cut)["status"] == "interrupted"
    assert logged(tracker.run_id).data.tags["status"] == "interrupted"
    assert logged(tracker.run_id).info.status == "KILLED"
    run.mark(cut, status="failed")
    assert listed() == "failed"
