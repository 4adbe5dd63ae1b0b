"""What MLflow shows over single runs: seeds and sweeps with their runs nested under them, and comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training import config as configs
from training import corpus as corpora
from training import entry, run, store, tracking, view
from training.console import warn
from training.corpus import Corpus
from training.errors import TrackingError
from training.files import sha256, write_json


def log(folder: Path) -> str:
    """Logs a finished run to MLflow, once; returns the run's id. Of a folder of seeds or a sweep, those in it as well.

    Raises:
        RunError: the folder is no finished run.
        TrackingError: the tracker cannot be reached.
    """
    if (folder / run.SWEEP).exists():
        return log_sweep(folder)
    folder = run.find(str(folder))
    record = run.record(folder) or {}
    return _log_seeds(folder, record) if "members" in record else tracking.log(folder)


def log_softly(folder: Path) -> None:
    """`log`, with a warning instead of an error or of a long wait."""
    try:
        store.within(tracking.PATIENCE, lambda: log(folder))
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
    record = _read(folder / run.SWEEP)
    ended = sorted(file.parent for file in folder.glob(f"*/{run.TRIAL}")) if trials is None else trials
    try:
        settings = configs.load(folder / "base.yaml")
        data = corpora.without_test(corpora.load(settings.corpus))
        client = store.client()
        # By its key, not by an id kept in the folder: on other machines the sweep has other folders.
        same = f"tags.sweep = '{record['key']}' and tags.stage = 'sweep'"
        found = client.search_runs([view.experiment(client)], same)
        if found:
            run_id = found[0].info.run_id
        else:
            fixed = [name for name in entry.PARAMETERS if name not in record["searched"]]
            _, run_id = entry.opened(folder, settings, data, stage="sweep", name=record["name"], parameters=fixed)
            client.set_tag(run_id, "sweep", record["key"])
        for trial in ended:
            _log_trial(client, run_id, trial, record, data)
        figures = {f"trials/{state}": float(count) for state, count in record["counts"].items()}
        if record["best"]:
            figures[record["objective"]] = record["best"]["value"]
            client.set_tag(run_id, "best", f"trial {record['best']['number']}")
        entry.log_metrics(client, run_id, figures)
        for file in (folder / "sweep.yaml", folder / "best.yaml", *(folder / "figures").glob("*.png")):
            if file.exists():
                client.log_artifact(run_id, str(file))
        client.set_tag(run_id, "status", record["state"])
        ending = {entry.COMPLETED: "FINISHED", entry.INTERRUPTED: "KILLED"}.get(record["state"])
        if ending:
            client.set_terminated(run_id, ending)
        else:
            client.update_run(run_id, status="RUNNING")
    except Exception as error:
        raise tracking.unreachable(folder, error) from None
    return str(run_id)


def log_comparison(files: Sequence[Path], words: str) -> None:
    """Logs the files of a comparison as a run of its own, the same ones once; warns where it cannot.

    Args:
        files: the first of them, the comparison as JSON, tells it from others.
        words: Markdown, shown on the run's page; the first 8,000 characters, as many as MLflow takes.
    """
    try:
        client, key = store.client(), sha256(files[0])[:16]
        experiment = view.experiment(client)
        if client.search_runs([experiment], f"tags.comparison = '{key}' and tags.status = '{entry.COMPLETED}'"):
            return
        name = "comparison: " + ", ".join(one["name"] for one in _read(files[0])["ranking"])
        tags = {"stage": "compare", "comparison": key, "mlflow.note.content": words[:8000]}
        opened = client.create_run(experiment, run_name=name, tags=tags)
        for file in files:
            client.log_artifact(opened.info.run_id, str(file))
        client.set_tag(opened.info.run_id, "status", entry.COMPLETED)
        client.set_terminated(opened.info.run_id)
    except Exception as error:
        warn(f"the comparison was not logged: {store.short(error)}")


def _log_seeds(folder: Path, record: Mapping[str, Any]) -> str:
    """A parent run with the means, and its seeds under it; one that is there already is brought up to date."""
    members = run.members(folder)
    children = [tracking.log(member) for member in members]
    trained = ", ".join(str(configs.load(member / "config.yaml").seed) for member in members)
    try:
        client = store.client()
        run_id = client.get_run(children[0]).data.tags.get(entry.PARENT)
        if run_id and client.get_run(run_id).data.tags.get("seeds") == trained:
            return str(run_id)
        if not run_id:
            settings = configs.load(members[0] / "config.yaml")
            shared = [name for name in entry.PARAMETERS if name != "seed"]
            data, name = corpora.load(settings.corpus), entry.named(folder, settings.name)
            client, run_id = entry.opened(members[0], settings, data, stage="seeds", name=name, parameters=shared)
        for child in children:
            client.set_tag(child, entry.PARENT, run_id)
            client.set_tag(child, "stage", "seed")
        entry.log_metrics(client, run_id, _read(folder / "metrics.json"))
        for name in ("metrics.json", run.SEEDS):
            client.log_artifact(run_id, str(folder / name))
        client.set_tag(run_id, "mlflow.note.content", _of_seeds(record, trained))
        client.set_tag(run_id, "seeds", trained)
        client.set_tag(run_id, "status", entry.COMPLETED)
        client.set_terminated(run_id, end_time=entry.ended(record))
        write_json(folder / run.SEEDS, {**record, "mlflow_run_id": run_id})
    except Exception as error:
        raise tracking.unreachable(folder, error) from None
    return str(run_id)


def _of_seeds(record: Mapping[str, Any], trained: str) -> str:
    """What the run of several seeds found, shown at the head of its page."""
    headline, corpus = record["figures"]["test/macro_f1"], record["corpus"]
    return "\n".join([
        f"**{record['name']}** ({record['family']}) with seeds {trained} on {corpus['name']} {corpus['version']}: test "
        f"macro-F1 **{headline['mean']:.3f} ± {headline['std']:.3f}** (mean and standard deviation over the seeds; "
        f"95% interval of the mean [{headline['low']:.3f}, {headline['high']:.3f}]).",
        "",
        "* Every seed is a run of its own, nested under this one, with report, figures, config and environment.",
        f"* Corpus {corpus['version']}, SHA-256 `{corpus['sha256']}`.",
    ])  # fmt: skip


def _log_trial(client: Any, parent: str, folder: Path, sweep: Mapping[str, Any], data: Corpus) -> None:
    record = _read(folder / run.TRIAL)
    if record["mlflow_run_id"]:
        return
    settings = configs.load(folder / "config.yaml")
    _, run_id = entry.opened(folder, settings, data, stage="trial", name=settings.name, parameters=sweep["searched"])
    client.set_tag(run_id, entry.PARENT, parent)
    client.set_tag(run_id, "sweep", sweep["key"])
    entry.log_history(client, run_id, folder)
    if record["state"] == "finished":
        entry.log_metrics(client, run_id, _read(folder / "metrics.json"), step=entry.epochs(folder))
    for name in ("config.yaml", "environment.json", run.TRIAL):
        client.log_artifact(run_id, str(folder / name))
    status, ending = {"finished": (entry.COMPLETED, "FINISHED"), "pruned": ("pruned", "KILLED")}.get(
        record["state"], ("failed", "FAILED")
    )
    client.set_tag(run_id, "status", status)
    client.set_terminated(run_id, ending)
    write_json(folder / run.TRIAL, {**record, "mlflow_run_id": run_id})


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
