"""Whatever the tracker does, a training ends with all its figures; `log` brings them in later, once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import communique
from training import baseline, config, promote, registry, run, tracking, view
from training import store as stores
from training import train as single
from training.__main__ import main

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pages: they take longer than the trainings."""

    def written(folder: Path) -> Path:
        (folder / "report.html").write_text("<h1>report</h1>")
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures" / "history.png").write_bytes(b"png")
        return folder / "report.html"

    monkeypatch.setattr(single, "_reported", written)


def _train(corpus: Path, folder: Path, *values: str) -> Path:
    return single.train(config.load("configs/tfidf.yaml", [f"corpus={corpus}", "min_count=1", *values]), folder)


def _runs(uri: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(view.EXPERIMENT)
    return list(client.search_runs([found.experiment_id])) if found else []


def _check_logged_once(uri: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """`log` twice, as the warning says; the run is there once and whole."""
    for thread in threading.enumerate():  # what was left behind would be gone in a process of its own
        if thread.name == "tracker":
            thread.join()
    printed = capsys.readouterr().err
    assert f"Log it later with: python -m training log {folder}" in printed
    assert main(["log", str(folder)]) == main(["log", str(folder)]) == 0
    (logged,) = _runs(uri)
    assert (logged.info.status, logged.data.tags["status"]) == ("FINISHED", "completed")
    assert logged.data.metrics == pytest.approx(json.loads((folder / "metrics.json").read_text()))
    assert (run.finished(folder) or {})["mlflow_run_id"] == logged.info.run_id
    return logged


def test_a_server_that_never_answers_holds_nothing_up(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 1.5)
    waited, within = [], stores.within

    def timed(seconds: float, work: Any) -> Any:
        start = time.perf_counter()
        try:
            return within(seconds, work)
        finally:
            waited.append(time.perf_counter() - start)

    monkeypatch.setattr(stores, "within", timed)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections are made, and that is all
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        folder = _train(tiny_corpus, tmp_path / "run")
    printed = capsys.readouterr().err
    assert printed.count("no answer within 2 seconds") == 2 and f"training log {folder}" in printed
    assert len(waited) == 2 and max(waited) < 10, "far less than MLflow's own two minutes a request"
    assert json.loads((folder / "metrics.json").read_text())["test/macro_f1"] > 0


def test_a_locked_database_costs_a_warning(
    store: str, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 1.5)
    holder = sqlite3.connect(store.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    folder = _train(tiny_corpus, tmp_path / "run")
    holder.execute("ROLLBACK")
    holder.close()
    _check_logged_once(store, folder, capsys)


def test_artifacts_that_cannot_be_written_cost_a_warning(
    store: str, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stores.STORE / "artifacts").touch()  # a file where the folder should be: even root cannot write into it
    folder = _train(tiny_corpus, tmp_path / "run")
    (unfinished,) = _runs(store)
    assert unfinished.data.tags["status"] == "running"
    (stores.STORE / "artifacts").unlink()
    assert _check_logged_once(store, folder, capsys).info.run_id == unfinished.info.run_id


def test_an_answer_that_comes_too_late_leaves_no_copy(store: str, tiny_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    client, uid = stores.client(), run.uid(folder)
    for _ in range(2):  # as when MLflow repeats a request that was heard after all
        client.create_run(view.experiment(client), tags={"uid": uid})
    first = tracking.log(folder)
    assert [one.info.run_id for one in _runs(store)] == [first] and tracking.log(folder) == first


class Server:
    """`mlflow server` with its artifact proxy, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://ada:{SECRET}@127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
            "--serve-artifacts", "--artifacts-destination", str(self.folder / "artifacts"), "--host", "127.0.0.1",
            "--port", str(self.port), "--workers", "1",
        ]  # fmt: skip
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": ""}
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(600):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.3)
        raise AssertionError("not ready: " + (self.folder / "log").read_text())

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    one = Server(folder)
    yield one
    one.kill()


def test_a_teams_server_killed_in_mid_training_gets_the_run_later(
    server: Server, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    fit = baseline.fit

    def deadly(*arguments: Any) -> Any:
        server.kill()
        return fit(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(baseline, "fit", deadly)
        folder = _train(tiny_corpus, tmp_path / "run")
    assert json.loads((folder / "metrics.json").read_text())["test/macro_f1"] > 0
    server.start()
    logged = _check_logged_once(server.uri, folder, capsys)
    assert logged.info.artifact_uri.startswith("mlflow-artifacts:/")
    whole = ("config.yaml", "environment.json", "metrics.json", "figures/history.png", "predictions/test.jsonl")
    for name in whole:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{server.port}/get-artifact?path={name}&run_uuid={logged.info.run_id}", timeout=30
        ) as reply:
            assert reply.read() == (folder / name).read_bytes()

    for file in [*tmp_path.rglob("*"), *server.folder.rglob("*")]:
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file
    assert SECRET not in "".join(capsys.readouterr())


def test_a_bundle_is_promoted_and_fetched_through_a_teams_server(
    server: Server, tiny_run: Path, exported: Path, bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.artifacts import download_artifacts

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr(promote, "gate", lambda *_: [promote.Check("test", True, "")])
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    assert main(["promote", str(folder), "--bundle", str(bundle_copy)]) == 0
    champion = registry.holder(registry.NAME, registry.CHAMPION)
    assert champion and champion.number == "1" and registry.holder(registry.NAME, registry.CHALLENGER) is None
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", server.uri)
    path = download_artifacts("models:/communique@champion/artifacts/bundle", tracking_uri=server.uri)
    text = "We reject the plan for Lima."
    assert communique.load(path)(text) == communique.load(exported)(text)
