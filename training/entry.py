"""One run's entry in MLflow: opened with parameters, tags and inputs, then given figures and files."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from training import run, store, view
from training.corpus import Corpus
from training.files import sha256

COMPLETED, INTERRUPTED = "completed", "interrupted"
PARENT = "mlflow.parentRunId"
# What people compare by; MLflow's table is unreadable with more than fifteen.
PARAMETERS = (
    "seed", "encoder", "epochs", "batch_size", "learning_rate", "head_factor", "layer_decay", "swap_actors",
    "weight_decay", "dropout", "loss", "label_smoothing", "ema", "max_length",
    "frozen_layers", "pooling", "word_ngrams", "char_ngrams", "min_count", "inverse_regularisation",
)  # fmt: skip


def opened(
    folder: Path, settings: Any, data: Corpus, *, stage: str = "train", name: str,
    parameters: Sequence[str] = PARAMETERS, tags: Mapping[str, str] | None = None,
) -> tuple[Any, str]:  # fmt: skip
    """Opens a run with tags, parameters and inputs; returns the client and the run's id."""
    from mlflow.data.filesystem_dataset_source import FileSystemDatasetSource  # noqa: F401  (registers sources)
    from mlflow.entities import Param

    client = store.client()
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    opened = client.create_run(view.experiment(client), run_name=name, start_time=_times(folder)[0], tags={
        "stage": stage, "family": settings.family, "config": settings.name,
        "encoder": getattr(settings, "encoder", "none"), "corpus.version": data.version, "corpus.sha256": data.sha256,
        "git.dirty": str(environment["dirty"]).lower(), "mlflow.source.git.commit": environment["commit"],
        "processor": environment["processor"], "status": "running", "mlflow.user": _user(),
        "mlflow.source.name": "python -m training", "mlflow.source.type": "LOCAL", **(tags or {}),
    })  # fmt: skip
    run_id = opened.info.run_id
    values = settings.model_dump()
    client.log_batch(run_id, params=[Param(key, str(values[key])) for key in parameters if key in values])
    client.log_inputs(run_id, datasets=_inputs(data))
    return client, run_id


def find(client: Any, folder: Path) -> Any | None:
    """The run of the training in `folder` as this store has it; None where it has none.

    An answer that came too late may have left copies of a run; all but the first are deleted.
    """
    from mlflow.exceptions import MlflowException

    uid, run_id = run.begun(folder).get("uid"), (run.finished(folder) or {}).get("mlflow_run_id")
    if uid:
        found = client.search_runs([view.experiment(client)], f"tags.uid = '{uid}'", order_by=["start_time ASC"])
        for copy in found[1:]:
            client.delete_run(copy.info.run_id)
        if found:
            return found[0]
    try:  # logged by an earlier version, which gave no uid
        there = client.get_run(run_id) if run_id else None
    except MlflowException:  # removed, or in another store
        return None
    return there if there and there.info.lifecycle_stage == "active" else None


def go_on(folder: Path, settings: Any, data: Corpus, uid: str) -> tuple[Any, str, int]:
    """The run that a training opened before it was cut short, else a new one, with the epochs of the folder's history.

    Returns:
        the client, the run's id, and the last epoch that the run has.
    """
    client = store.client()
    there = find(client, folder)
    if there is None:
        client, run_id = opened(folder, settings, data, name=named(folder, settings.name), tags={"uid": uid})
        logged = 0
    else:
        run_id = there.info.run_id
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, "status", "running")
        logged = max((point.step for point in client.get_metric_history(run_id, "train/loss")), default=0)
    return client, run_id, log_history(client, run_id, folder, logged)


def cut(client: Any, run_id: str, ending: str) -> None:
    """Marks a run as interrupted; `ending` is MLflow's word, KILLED or FAILED."""
    client.set_tag(run_id, "status", INTERRUPTED)
    client.set_terminated(run_id, ending)


def complete(client: Any, run_id: str, folder: Path) -> None:
    """Adds the final figures, the files and a description, and marks the run as completed, which comes last."""
    log_metrics(client, run_id, json.loads((folder / "metrics.json").read_text(encoding="utf-8")), step=epochs(folder))
    log_files(client, run_id, folder)
    _describe(client, run_id, folder)
    client.set_tag(run_id, "status", COMPLETED)
    client.set_terminated(run_id, end_time=_times(folder)[1])


def named(folder: Path, name: str) -> str:
    """A run's name: its folder's, with the config's before it where that does not say it."""
    return folder.name if name in folder.name else f"{name} {folder.name}"


def log_metrics(
    client: Any, run_id: str | None, figures: Mapping[str, float], step: int = 0, at: float | None = None
) -> None:
    """Adds figures at a step; `at` is their time in seconds, now where there is none."""
    from mlflow.entities import Metric

    moment = int((at or time.time()) * 1000)
    ordered = sorted(figures, key=lambda name: name != "test/macro_f1")  # MLflow's comparison starts with the first
    client.log_batch(run_id, metrics=[Metric(name, float(figures[name]), moment, step) for name in ordered])


def log_history(client: Any, run_id: str, folder: Path, logged: int = 0) -> int:
    """Logs the epochs of the folder's history that come after `logged`; returns the last."""
    for row in _history(folder):
        if row["epoch"] > logged:
            figures = {name: value for name, value in row.items() if "/" in name}
            log_metrics(client, run_id, figures, step=row["epoch"], at=row["time"])
            logged = row["epoch"]
    return logged


def epochs(folder: Path) -> int:
    """The last epoch in the folder's history, 0 where it has none: the step of final figures.

    MLflow takes the value of the highest step for the run's, and an epoch's `val/macro_f1` is not the final one.
    """
    return max((row["epoch"] for row in _history(folder)), default=0)


def _history(folder: Path) -> list[dict[str, Any]]:
    file = folder / "history.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def log_files(client: Any, run_id: str, folder: Path) -> None:
    """Adds everything in the folder but the weights."""
    for name in ("config.yaml", "metrics.json", "calibration.json", "environment.json", "report.html"):
        if (folder / name).exists():
            client.log_artifact(run_id, str(folder / name))
    for name in ("figures", "predictions", "analysis"):
        if (folder / name).exists():
            client.log_artifacts(run_id, str(folder / name), name)


def _describe(client: Any, run_id: str, folder: Path) -> None:
    """Writes what the run is and found, shown at the head of its page."""
    record, environment = run.record(folder) or {}, json.loads((folder / "environment.json").read_text("utf-8"))
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    corpus, edits = record["corpus"], " with uncommitted changes" if environment["dirty"] else ""
    each = ", ".join(f"{label} {figures[f'test/f1_{label}']:.3f}" for label in record["labels"])
    client.set_tag(run_id, "mlflow.note.content", "\n".join([
        f"**{record['name']}** ({record['family']}) on {corpus['name']} {corpus['version']}: test macro-F1 "
        f"**{figures['test/macro_f1']:.3f}**{_interval(figures)}; {each}.",
        "",
        "* Start with `report.html` under Artifacts: every figure, slices, worst errors.",
        f"* Corpus {corpus['version']}, SHA-256 `{corpus['sha256']}`.",
        f"* Code: commit `{environment['commit']}`{edits}; packages and machine: `environment.json`.",
        f"* Folder `{folder.name}`; to train it again: `python -m training train config.yaml`, with the `config.yaml` "
        "under Artifacts.",
    ]))  # fmt: skip


def ended(record: Mapping[str, Any]) -> int:
    """When what a record is of was finished, in milliseconds."""
    return int(datetime.fromisoformat(record["finished"]).timestamp() * 1000)


def _times(folder: Path) -> tuple[int | None, int | None]:
    """When a finished run's training began and ended, in milliseconds; None where the folder does not say."""
    record = run.finished(folder)
    if record is None:
        return None, None
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return ended(record) - int(figures["time/fit_seconds"] * 1000), ended(record)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may give its user no name
        return "unknown"


def _interval(figures: Mapping[str, float]) -> str:
    low, high = (figures.get(f"test/macro_f1_{bound}") for bound in ("low", "high"))
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"


def _inputs(data: Corpus) -> list[Any]:
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource
    from mlflow.entities import DatasetInput, InputTag

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
