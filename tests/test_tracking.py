"""MLflow holds what the run's folder holds; a tracker that fails costs a warning, never a result."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import zlib
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from training import config, evaluation, run, tracking, view
from training import store as stores
from training.errors import TrackingError
from training.train import train


def _client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=stores.uri())


@pytest.fixture
def untracked(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_a_training_is_tracked_while_it_runs(store: str, tiny_corpus: Path, tmp_path: Path) -> None:
    settings = config.load("configs/tfidf.yaml", [f"corpus={tiny_corpus}", "min_count=1"])
    folder = train(settings, tmp_path / "tfidf")
    record = run.finished(folder)
    assert record
    logged = _client().get_run(record["mlflow_run_id"])
    assert logged.info.status == "FINISHED" and logged.data.tags["status"] == "completed"
    figures = json.loads((folder / "metrics.json").read_text())
    assert logged.data.metrics == pytest.approx(figures)
    assert len(logged.data.params) <= 15 and logged.data.params["word_ngrams"] == "2"
    assert logged.data.tags["corpus.sha256"] == record["corpus"]["sha256"]
    assert {item.dataset.name.rpartition("-")[2] for item in logged.inputs.dataset_inputs} == {
        "train",
        "validation",
        "test",
    }
    names = {item.path for item in _client().list_artifacts(record["mlflow_run_id"])}
    assert {"config.yaml", "metrics.json", "figures", "predictions", "analysis", "report.html"} <= names

    evaluation.run_on(str(folder), tiny_corpus / "validation.jsonl", "later")
    later = {item.path for item in _client().list_artifacts(record["mlflow_run_id"], "analysis")}
    assert {"analysis/later.json", "analysis/later-errors.csv", "analysis/test.json"} <= later
    assert "later/macro_f1" in _client().get_run(record["mlflow_run_id"]).data.metrics


def test_a_run_is_logged_later_and_once(store: str, untracked: Path) -> None:
    first = tracking.log(untracked)
    assert tracking.log(untracked) == first
    client = _client()
    experiment = client.get_experiment_by_name(view.EXPERIMENT)
    assert len(client.search_runs([experiment.experiment_id])) == 1
    history = client.get_metric_history(first, "val/macro_f1")
    assert sorted(point.step for point in history)[-1] == 20
    logged = client.get_run(first)
    figures = json.loads((untracked / "metrics.json").read_text())
    assert {name: logged.data.metrics[name] for name in figures} == pytest.approx(figures), "not an epoch's"
    assert logged.data.tags["mlflow.user"] and "test macro-F1" in logged.data.tags["mlflow.note.content"]
    ended = datetime.fromisoformat((run.finished(untracked) or {})["finished"]).timestamp() * 1000
    assert logged.info.start_time < logged.info.end_time == ended, "the training's times, not those of the logging"
    assert len(logged.data.params) <= 15
    assert client.get_run(first).inputs.dataset_inputs[0].dataset.digest


def test_the_first_view_shows_the_headline(store: str, untracked: Path) -> None:
    tracking.log(untracked)
    tags = _client().get_experiment_by_name(view.EXPERIMENT).tags
    state = json.loads(
        zlib.decompress(base64.b64decode(tags[f"mlflow.sharedViewState.{view.RUNS}"].removeprefix("deflate;")))
    )
    assert state["selectedColumns"][0] == state["orderByKey"] == "metrics.`test/macro_f1`"
    assert "macro_f1" in tags["mlflow.note.content"]
    assert state["searchFilter"] == "tags.stage != 'seed' AND tags.stage != 'trial'", "parents stand for them"


def test_a_dead_tracker_costs_a_warning_only(
    monkeypatch: pytest.MonkeyPatch, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:  # bound, never listening: connections are refused at once
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:hunter2@127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        settings = config.load("configs/tfidf.yaml", [f"corpus={tiny_corpus}", "min_count=1"])
        folder = train(settings, tmp_path / "run")
        printed = capsys.readouterr()
        assert printed.err.count("tracking is off") == 1 and "training log" in printed.err
        assert json.loads((folder / "metrics.json").read_text())["test/macro_f1"] > 0
        with pytest.raises(TrackingError, match="Nothing is lost") as caught:
            tracking.log(folder)
    assert "hunter2" not in printed.err + printed.out + str(caught.value)


def test_the_store_is_in_the_checkout_and_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert stores.uri() == f"sqlite:///{run.ROOT}/.mlflow/mlflow.db"


def test_passwords_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stores.masked("postgresql://ada:secret@db:5432/x") == "postgresql://***@db:5432/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:secret@host")
    assert stores.masked_text("cannot reach http://ada:secret@host") == "cannot reach http://***@host"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:se%40cret@host")
    assert stores.masked_text("ada cannot log in with se@cret") == "ada cannot log in with ***"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://db/x?user=ada&password=se%40cret")
    assert stores.masked(stores.uri()) == "postgresql://db/x"
    assert "cret" not in stores.masked_text("no entry: password=se%40cret, se@cret")
