"""Runs in MLflow, whose registry is `training.registry`. What is logged lies in the run's folder first.

A tracker that is down, full or locked costs a warning, never a result: `python -m training log FOLDER`
logs the folder later, once.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from communique.errors import CommuniqueError
from training import config as configs
from training import run
from training.console import say, warn
from training.corpus import Corpus
from training.errors import TrackingError
from training.files import write_json

EXPERIMENT = "communique"
STORE = run.ROOT / ".mlflow"
VIEW = "communique"
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
COMPLETED, INTERRUPTED = "completed", "interrupted"
_PARENT = "mlflow.parentRunId"

# What people compare by; MLflow's table is unreadable with more than fifteen.
_PARAMETERS = (
    "seed", "encoder", "epochs", "batch_size", "learning_rate", "head_factor", "layer_decay", "swap_actors",
    "weight_decay", "dropout", "loss", "label_smoothing", "ema", "max_length",
    "frozen_layers", "pooling", "word_ngrams", "char_ngrams", "min_count", "inverse_regularisation",
)  # fmt: skip
_NOTE = """Each run is one training of `python -m training train configs/….yaml`.

* **test/macro_f1** is the headline: mean F1 over the intents on the test split, thresholds fitted on validation.
* `test/macro_f1_low` and `_high` bound it (95%, resampled by scenario).
* `val/…` guided the training; `real/…` (where present) is an outside set that nothing was tuned on.
* Compare runs of one **Dataset** only: a figure on other data is another figure.
* Figures and predictions are under Artifacts. Only runs tagged `status=completed` are whole; what was stopped is tagged
  `status=interrupted`.
* A run with `stage=seeds` is one config with several seeds: its figures are their means, `…_std` their standard
  deviations, `…_low` and `…_high` the means of the seeds' own bounds. The seeds are left out of this view; take out its
  filter and sort by Created to see them folded under it.
* `stage=compare` says which differences between runs are real.
* A run with `stage=sweep` looked for a better config: `val/…` is its best trial's figure. Its trials are left out of
  this view as seeds are; those given up early are tagged `status=pruned`.
"""


@dataclass
class Tracker:
    """Logs one run while it trains; turns itself off, with one warning, at the first failure."""

    client: Any
    run_id: str | None
    logged: int = 0  # the last epoch that the run has

    @classmethod
    def start(cls, folder: Path, settings: Any, data: Corpus) -> Tracker:
        """Opens a run with parameters, tags and the corpus, or the one that was cut short again; never raises."""
        tracker = cls(None, None)
        with tracker._softly():
            tracker.client, tracker.run_id, tracker.logged = _go_on(folder, settings, data)
        return tracker

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Logs one epoch's figures at step `epoch`, once; never raises."""
        if self.run_id and epoch > self.logged:
            with self._softly():
                _log_metrics(self.client, self.run_id, figures, step=epoch)

    def finish(self, folder: Path) -> None:
        """Logs final figures and artifacts, and marks the run completed; never raises."""
        if self.run_id:
            with self._softly():
                _finish(self.client, self.run_id, folder)
        if not self.run_id:
            warn(f"the run is whole in {folder}; log it later with: python -m training log {folder}")

    def interrupt(self, error: BaseException) -> None:
        """Marks the run as interrupted: killed by the person before it, or failed; never raises."""
        if self.run_id:
            with self._softly():
                self.client.set_tag(self.run_id, "status", INTERRUPTED)
                self.client.set_terminated(self.run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")

    @contextlib.contextmanager
    def _softly(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever the tracker does, the training goes on
            warn(f"tracking is off for this run: {_short(error)}")
            self.client, self.run_id = None, None


def log(folder: Path) -> str:
    """Logs a finished run's folder to MLflow, once; returns the run's id. Of a folder of seeds, the seeds as well.

    Of a sweep's folder, the sweep and its trials.

    Raises:
        RunError: the folder is no finished run.
        TrackingError: the tracker cannot be reached.
    """
    from training import corpus as corpora

    if (folder / run.SWEEP).exists():
        return log_sweep(folder)
    folder = run.find(str(folder))
    record = run.record(folder) or {}
    if "members" in record:
        return _log_seeds(folder, record)
    if record["mlflow_run_id"]:
        return str(record["mlflow_run_id"])
    settings = configs.load(folder / "config.yaml")
    try:
        client, run_id, _ = _go_on(folder, settings, corpora.load(settings.corpus))
        _finish(client, run_id, folder)
    except Exception as error:
        raise _unreachable(folder, error) from None
    return run_id


def log_softly(folder: Path) -> None:
    """`log`, with a warning instead of an error."""
    try:
        log(folder)
    except TrackingError as error:
        warn(str(error))


def log_sweep(folder: Path, trials: Sequence[Path] | None = None) -> str:
    """Logs trials of a sweep, each once, under a run for the sweep, and brings that up to date; returns its id.

    Args:
        folder: the sweep's.
        trials: folders of trials that have ended; None for all that are in `folder`.

    Raises:
        TrackingError: the tracker cannot be reached.
    """
    from training import corpus as corpora

    record = _read(folder / run.SWEEP)
    ended = sorted(file.parent for file in folder.glob(f"*/{run.TRIAL}")) if trials is None else trials
    try:
        settings = configs.load(folder / "base.yaml")
        data = corpora.without_test(corpora.load(settings.corpus))
        client = _client()
        # By its key, not by an id kept in the folder: on other machines the sweep has other folders.
        same = f"tags.sweep = '{record['key']}' and tags.stage = 'sweep'"
        found = client.search_runs([_experiment(client)], same)
        if found:
            run_id = found[0].info.run_id
        else:
            fixed = [name for name in _PARAMETERS if name not in record["searched"]]
            _, run_id = _open(folder, settings, data, stage="sweep", name=record["name"], parameters=fixed)
            client.set_tag(run_id, "sweep", record["key"])
        for trial in ended:
            _log_trial(client, run_id, trial, record, data)
        figures = {f"trials/{state}": float(count) for state, count in record["counts"].items()}
        if record["best"]:
            figures[record["objective"]] = record["best"]["value"]
            client.set_tag(run_id, "best", f"trial {record['best']['number']}")
        _log_metrics(client, run_id, figures)
        for file in (folder / "sweep.yaml", folder / "best.yaml", *(folder / "figures").glob("*.png")):
            if file.exists():
                client.log_artifact(run_id, str(file))
        client.set_tag(run_id, "status", record["state"])
        ending = {COMPLETED: "FINISHED", INTERRUPTED: "KILLED"}.get(record["state"])
        if ending:
            client.set_terminated(run_id, ending)
        else:
            client.update_run(run_id, status="RUNNING")
    except Exception as error:
        raise _unreachable(folder, error) from None
    return str(run_id)


def log_bundle(folder: Path, bundle: Path) -> None:
    """Logs an exported bundle as an artifact of the run in `folder`; warns where it cannot."""
    try:
        run_id = log(folder)
        _client().log_artifacts(run_id, str(bundle), "bundle")
    except Exception as error:
        warn(f"the bundle was not logged: {_short(error)}")


def log_figures(folder: Path, figures: Mapping[str, float]) -> None:
    """Adds figures of a later evaluation to a run that is in the tracker; warns where it cannot."""
    _add(folder, "figures", lambda client, run_id: _log_metrics(client, run_id, figures))


def log_files(folder: Path) -> None:
    """Logs the folder's files again for a run that is in the tracker; warns where it cannot."""
    _add(folder, "files", lambda client, run_id: _log_files(client, run_id, folder))


def _add(folder: Path, what: str, write: Callable[[Any, str], None]) -> None:
    run_id = (run.record(folder) or {}).get("mlflow_run_id")
    if not run_id:
        return
    try:
        write(_client(), run_id)
    except Exception as error:
        warn(f"the {what} were not logged: {_short(error)}")


def log_comparison(files: Sequence[Path], words: str) -> None:
    """Logs the files of a comparison as a run of its own, the same ones once; warns where it cannot.

    Args:
        files: the first of them tells comparisons apart.
        words: Markdown, shown on the run's page; the first 8,000 characters, as many as MLflow takes.
    """
    from training.files import sha256

    try:
        client, key = _client(), sha256(files[0])[:16]
        experiment = _experiment(client)
        if client.search_runs([experiment], f"tags.comparison = '{key}' and tags.status = '{COMPLETED}'"):
            return
        tags = {"stage": "compare", "comparison": key, "mlflow.note.content": words[:8000]}
        opened = client.create_run(experiment, run_name=f"comparison {datetime.now(UTC):%Y-%m-%d}", tags=tags)
        for file in files:
            client.log_artifact(opened.info.run_id, str(file))
        client.set_tag(opened.info.run_id, "status", COMPLETED)
        client.set_terminated(opened.info.run_id)
    except Exception as error:
        warn(f"the comparison was not logged: {_short(error)}")


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """MLflow's client; what goes wrong in the block is a TrackingError."""
    try:
        yield _client()
    except CommuniqueError:
        raise
    except Exception as error:
        raise TrackingError(f"{masked(uri())}: {_short(error)}") from None


def uri() -> str:
    """`MLFLOW_TRACKING_URI` where it is set, else the checkout's own store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{STORE / 'mlflow.db'}"


def masked(address: str) -> str:
    """The address without user and password, and without options, which may hold another."""
    parts = urlsplit(address)
    if "@" not in parts.netloc and not parts.query:
        return address
    user = "***@" if "@" in parts.netloc else ""
    return urlunsplit(parts._replace(netloc=user + parts.netloc.rpartition("@")[2], query=""))


def serve(port: int) -> int:
    """Runs MLflow's server on loopback over the checkout's store until it is stopped; prints the link when ready.

    Raises:
        TrackingError: no port is free, or the server does not start.
    """
    if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
        say(f"MLFLOW_TRACKING_URI is set: your runs are at {masked(uri())}")
        return 0
    experiment = _experiment(_client())
    free = next((p for p in range(port, port + 20) if _is_free(p)), None)
    if free is None:
        raise TrackingError(f"ports {port} to {port + 19} are all taken; name another with --port.")
    if free != port:
        warn(f"port {port} is taken; using {free}.")
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri(),
        "--artifacts-destination", str(STORE / "artifacts"), "--host", "127.0.0.1", "--port", str(free),
        "--workers", "1",
    ]  # fmt: skip
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    say("starting MLflow (10 to 20 seconds) …")
    STORE.mkdir(exist_ok=True)
    with (STORE / "server.log").open("w", encoding="utf-8") as log_file:
        server = subprocess.Popen(command, env={**os.environ, **quiet}, stdout=log_file, stderr=log_file)
        try:
            _until_healthy(server, free)
            base = f"http://127.0.0.1:{free}/#/experiments/{experiment}/runs"
            say(f"runs: {base}?workflowType=machine_learning&viewStateShareKey={VIEW}")
            say("stop with Ctrl-C")
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            server.terminate()
            server.wait(timeout=20)


def _until_healthy(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(240):
        if server.poll() is not None:
            tail = (STORE / "server.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise TrackingError("the MLflow server stopped: " + " ".join(tail))
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1),
        ):
            return
        time.sleep(0.5)
    raise TrackingError(f"the MLflow server was not ready after two minutes; see {STORE / 'server.log'}.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _client() -> Any:
    # Read when mlflow is imported: no call leaves the machine, and a dead server fails in seconds, not minutes.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", str(sys.stderr.isatty()).lower())
    if uri().startswith("sqlite:///"):
        database = Path(uri().removeprefix("sqlite:///"))
        database.parent.mkdir(parents=True, exist_ok=True)
        if not database.exists():
            say("creating MLflow's database (about 12 seconds, once) …")
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri())


def _experiment(client: Any) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        if found.tags.get(_VIEW_TAG) != _view():  # made by an earlier version
            client.set_experiment_tag(found.experiment_id, _VIEW_TAG, _view())
        return str(found.experiment_id)
    # A sqlite store alone would put artifacts into ./mlruns of wherever one stands.
    place = (STORE / "artifacts").as_uri() if uri().startswith("sqlite:///") else None
    experiment = client.create_experiment(EXPERIMENT, artifact_location=place)
    client.set_experiment_tag(experiment, "mlflow.note.content", _NOTE)
    client.set_experiment_tag(experiment, _VIEW_TAG, _view())
    return str(experiment)


def _view() -> str:
    """The runs table's columns and order, as MLflow 3.17 keeps a shared view (undocumented; see MLFLOW pin)."""
    columns = [f"metrics.`test/{name}`" for name in (
        "macro_f1", "macro_f1_low", "macro_f1_high", "macro_f1_std", "f1_proposal", "f1_condition", "f1_rejection",
        "f1_reaction", "background_f1", "exact_match", "ece",
    )]  # fmt: skip
    columns += [
        "metrics.`time/fit_seconds`",
        "params.`encoder`",
        "params.`learning_rate`",
        "attributes.`Dataset`",
    ]
    # MLflow folds nested runs only where it sorts by date: sorted by a figure they would stand beside their own parent.
    state = {
        "orderByKey": "metrics.`test/macro_f1`", "orderByAsc": False, "selectedColumns": columns,
        "searchFilter": "tags.stage != 'seed' AND tags.stage != 'trial'", "startTime": "ALL",
        "lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": [],
    }  # fmt: skip
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()


def _log_seeds(folder: Path, record: Mapping[str, Any]) -> str:
    """A parent run with the means, and its seeds under it; one that is there already is brought up to date."""
    from training import corpus as corpora

    members = run.members(folder)
    children = [log(member) for member in members]
    trained = ", ".join(str(configs.load(member / "config.yaml").seed) for member in members)
    try:
        run_id = record["mlflow_run_id"]
        client = _client()
        if run_id and client.get_run(run_id).data.tags.get("seeds") == trained:
            return str(run_id)
        if not run_id:
            settings = configs.load(members[0] / "config.yaml")
            shared = [name for name in _PARAMETERS if name != "seed"]
            data = corpora.load(settings.corpus)
            client, run_id = _open(members[0], settings, data, stage="seeds", name=folder.name, parameters=shared)
        for child in children:
            client.set_tag(child, _PARENT, run_id)
            client.set_tag(child, "stage", "seed")
        _log_metrics(client, run_id, json.loads((folder / "metrics.json").read_text(encoding="utf-8")))
        for name in ("metrics.json", run.SEEDS):
            client.log_artifact(run_id, str(folder / name))
        client.set_tag(run_id, "seeds", trained)
        client.set_tag(run_id, "status", COMPLETED)
        client.set_terminated(run_id)
        write_json(folder / run.SEEDS, {**record, "mlflow_run_id": run_id})
    except Exception as error:
        raise _unreachable(folder, error) from None
    return str(run_id)


def _log_trial(client: Any, parent: str, folder: Path, sweep: Mapping[str, Any], data: Corpus) -> None:
    record = _read(folder / run.TRIAL)
    if record["mlflow_run_id"]:
        return
    settings = configs.load(folder / "config.yaml")
    _, run_id = _open(folder, settings, data, stage="trial", name=settings.name, parameters=sweep["searched"])
    client.set_tag(run_id, _PARENT, parent)
    client.set_tag(run_id, "sweep", sweep["key"])
    _log_history(client, run_id, folder)
    if record["state"] == "finished":
        _log_metrics(client, run_id, _read(folder / "metrics.json"))
    for name in ("config.yaml", "environment.json", run.TRIAL):
        client.log_artifact(run_id, str(folder / name))
    status, ending = {"finished": (COMPLETED, "FINISHED"), "pruned": ("pruned", "KILLED")}.get(
        record["state"], ("failed", "FAILED")
    )
    client.set_tag(run_id, "status", status)
    client.set_terminated(run_id, ending)
    write_json(folder / run.TRIAL, {**record, "mlflow_run_id": run_id})


def _go_on(folder: Path, settings: Any, data: Corpus) -> tuple[Any, str, int]:
    """The run that a training opened before it was cut short, else a new one, with the epochs of the folder's history.

    Returns:
        the client, the run's id, and the last epoch that the run has.
    """
    from mlflow.exceptions import MlflowException

    client, run_id = _client(), run.begun(folder).get("mlflow_run_id")
    try:
        if not run_id or client.get_run(run_id).info.lifecycle_stage != "active":
            raise MlflowException("there is none")
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, "status", "running")
        logged = max((point.step for point in client.get_metric_history(run_id, "train/loss")), default=0)
    except MlflowException:  # removed, or in another store
        client, run_id = _open(folder, settings, data)
        run.mark(folder, mlflow_run_id=run_id)
        logged = 0
    return client, run_id, _log_history(client, run_id, folder, logged)


def _open(
    folder: Path, settings: Any, data: Corpus, *, stage: str = "train", name: str = "",
    parameters: Sequence[str] = _PARAMETERS,
) -> tuple[Any, str]:  # fmt: skip
    """Opens a run with tags, parameters and inputs; without `name` it has the folder's."""
    from mlflow.data.filesystem_dataset_source import FileSystemDatasetSource  # noqa: F401  (registers sources)

    client = _client()
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    opened = client.create_run(_experiment(client), run_name=name or folder.name, tags={
        "stage": stage, "family": settings.family, "config": settings.name,
        "encoder": getattr(settings, "encoder", "none"), "corpus.version": data.version, "corpus.sha256": data.sha256,
        "git.dirty": str(environment["dirty"]).lower(), "mlflow.source.git.commit": environment["commit"],
        "processor": environment["processor"], "status": "running",
    })  # fmt: skip
    run_id = opened.info.run_id
    values = settings.model_dump()
    for parameter in parameters:
        if parameter in values:
            client.log_param(run_id, parameter, values[parameter])
    client.log_inputs(run_id, datasets=_inputs(data))
    return client, run_id


def _inputs(data: Corpus) -> list[Any]:
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource
    from mlflow.entities import DatasetInput, InputTag

    from training.files import sha256

    result = []
    for split in filter(len, data.splits):  # one that was taken out is no input
        file = data.folder / f"{split.name}.jsonl"
        full = sha256(file)
        # MLflow's own digest reads 10,000 rows at most; ours is of the whole file.
        dataset = MetaDataset(
            LocalArtifactDatasetSource(str(file)),
            name=f"{data.name}-{data.version}-{split.name}",
            digest=full[:16],
        )
        tags = [InputTag("mlflow.data.context", split.name), InputTag("sha256", full)]
        result.append(DatasetInput(dataset=dataset._to_mlflow_entity(), tags=tags))
    return result


def _log_metrics(
    client: Any, run_id: str | None, figures: Mapping[str, float], step: int = 0, at: float | None = None
) -> None:
    from mlflow.entities import Metric

    moment = int((at or time.time()) * 1000)
    client.log_batch(run_id, metrics=[Metric(name, float(value), moment, step) for name, value in figures.items()])


def _log_history(client: Any, run_id: str, folder: Path, logged: int = 0) -> int:
    """Logs the epochs of the folder's history that come after `logged`; returns the last."""
    history = folder / "history.jsonl"
    for line in history.read_text(encoding="utf-8").splitlines() if history.exists() else ():
        row = json.loads(line)
        if row["epoch"] > logged:
            figures = {name: value for name, value in row.items() if "/" in name}
            _log_metrics(client, run_id, figures, step=row["epoch"], at=row["time"])
            logged = row["epoch"]
    return logged


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _finish(client: Any, run_id: str, folder: Path) -> None:
    """Everything from the folder but the weights; the status tag is written last."""
    _log_metrics(client, run_id, json.loads((folder / "metrics.json").read_text(encoding="utf-8")))
    _log_files(client, run_id, folder)
    client.set_tag(run_id, "status", COMPLETED)
    client.set_terminated(run_id)
    write_json(folder / run.DONE, {**(run.finished(folder) or {}), "mlflow_run_id": run_id})


def _log_files(client: Any, run_id: str, folder: Path) -> None:
    for name in ("config.yaml", "metrics.json", "calibration.json", "environment.json", "report.html"):
        if (folder / name).exists():
            client.log_artifact(run_id, str(folder / name))
    for name in ("figures", "predictions", "analysis"):
        if (folder / name).exists():
            client.log_artifacts(run_id, str(folder / name), name)


def _unreachable(folder: Path, error: Exception) -> TrackingError:
    return TrackingError(f"{masked(uri())}: {_short(error)}. Nothing is lost: {folder} is whole.")


def _short(error: Exception) -> str:
    return masked_text(str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__)


def masked_text(text: str) -> str:
    """The text with the passwords of any tracking URI in it taken out, as they stand there and decoded."""
    parts = urlsplit(uri())
    for secret in filter(None, [parts.password, *(value for _, value in parse_qsl(parts.query))]):
        for form in (secret, quote(secret, safe=""), unquote(secret)):
            text = text.replace(form, "***")
    return text


def disk_use() -> str:
    """How much the local store holds, for people."""
    size = sum(file.stat().st_size for file in STORE.rglob("*") if file.is_file()) if STORE.exists() else 0
    return f"{STORE}: {size / 2**20:.0f} MiB of {shutil.disk_usage(run.ROOT).free / 2**30:.0f} GiB free"
