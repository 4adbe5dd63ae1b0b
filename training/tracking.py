"""A run in MLflow, while it trains or later. What is logged lies in the run's folder first.

A tracker that is down, slow, full or locked costs a warning and at most `PATIENCE`, never a result:
`python -m training log FOLDER` logs the folder later, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from communique.errors import CommuniqueError
from training import config as configs
from training import corpus as corpora
from training import entry, run, store
from training.console import warn
from training.corpus import Corpus
from training.errors import TrackingError
from training.files import write_json

PATIENCE = 60.0  # seconds that a tracker may hold up a training, and as many again when all is on disk
_T = TypeVar("_T")


@dataclass
class Tracker:
    """Logs one run while it trains; turns itself off, with one warning, at the first failure."""

    client: Any = None
    run_id: str | None = None
    logged: int = 0  # the last epoch that the run has
    left: float = PATIENCE

    @classmethod
    def start(cls, folder: Path, settings: Any, data: Corpus) -> Tracker:
        """Opens a run with parameters, tags and the corpus, or the one that was cut short again; never raises."""
        tracker, uid = cls(left=PATIENCE), run.uid(folder)
        opened = tracker._softly(lambda: entry.go_on(folder, settings, data, uid))
        if opened:
            tracker.client, tracker.run_id, tracker.logged = opened
        return tracker

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Logs one epoch's figures at step `epoch`, once; never raises."""
        if self.run_id and epoch > self.logged:
            self._softly(lambda: entry.log_metrics(self.client, self.run_id, figures, step=epoch))

    def finish(self, folder: Path) -> None:
        """Logs what the run has not yet, also where the tracker failed before, and marks it completed; never raises."""
        try:
            store.within(PATIENCE, lambda: log(folder))
        except CommuniqueError as error:
            warn(f"{error} Log it later with: python -m training log {folder}")

    def interrupt(self, error: BaseException) -> None:
        """Marks the run as interrupted: killed by the person before it, or failed; never raises."""
        if self.run_id:
            ending = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            self._softly(lambda: entry.cut(self.client, str(self.run_id), ending))

    def _softly(self, work: Callable[[], _T]) -> _T | None:
        start = time.perf_counter()
        try:
            return store.within(self.left, work)
        except CommuniqueError as error:  # whatever the tracker does, the training goes on
            warn(f"tracking is off while this run trains: {error}")
            self.run_id = None
            return None
        finally:
            self.left = max(1.0, self.left - (time.perf_counter() - start))


def log(folder: Path) -> str:
    """Logs the folder of one finished run to MLflow, once; returns the run's id. For every folder: `nested.log`.

    Raises:
        CorpusError: its corpus is gone or broken.
        TrackingError: the tracker cannot be reached.
    """
    try:
        client = store.client()
        there = entry.find(client, folder)
        if there is not None and there.data.tags.get("status") == entry.COMPLETED:
            run_id = str(there.info.run_id)
        else:
            settings = configs.load(folder / "config.yaml")
            client, run_id, _ = entry.go_on(folder, settings, corpora.load(settings.corpus), run.uid(folder))
            entry.complete(client, run_id, folder)
    except CommuniqueError:
        raise
    except Exception as error:
        raise unreachable(folder, error) from None
    record = run.finished(folder) or {}
    if record.get("mlflow_run_id") != run_id:
        write_json(folder / run.DONE, {**record, "mlflow_run_id": run_id})
    return run_id


def log_bundle(folder: Path, bundle: Path) -> None:
    """Logs an exported bundle as an artifact of the run in `folder`; warns where it cannot."""
    try:
        run_id = log(folder)
        store.client().log_artifacts(run_id, str(bundle), "bundle")
    except Exception as error:
        warn(f"the bundle was not logged: {store.short(error)}")


def log_figures(folder: Path, figures: Mapping[str, float]) -> None:
    """Adds figures of a later evaluation to a run that is in the tracker; warns where it cannot."""
    last = entry.epochs(folder)
    _add(folder, "figures", lambda client, run_id: entry.log_metrics(client, run_id, figures, step=last))


def log_files(folder: Path) -> None:
    """Logs the folder's files again for a run that is in the tracker; warns where it cannot."""
    _add(folder, "files", lambda client, run_id: entry.log_files(client, run_id, folder))


def mark_dead(folder: Path) -> None:
    """Marks a training as interrupted that a kill left as running, in its folder and in the tracker; warns."""
    run.mark(folder, status=entry.INTERRUPTED)
    if "uid" not in run.begun(folder):  # it was not tracked
        return
    try:
        client = store.client()
        there = entry.find(client, folder)
        if there is not None:
            entry.cut(client, there.info.run_id, "KILLED")
    except Exception as error:
        warn(f"{folder}: was killed, which could not be noted in MLflow: {store.short(error)}")


def unreachable(folder: Path, error: Exception) -> TrackingError:
    """What to raise where a folder could not be logged."""
    return TrackingError(f"{store.masked(store.uri())}: {store.short(error)}. Nothing is lost: {folder} is whole.")


def _add(folder: Path, what: str, write: Callable[[Any, str], None]) -> None:
    run_id = (run.record(folder) or {}).get("mlflow_run_id")
    if not run_id:
        return
    try:
        write(store.client(), run_id)
    except Exception as error:
        warn(f"the {what} were not logged: {store.short(error)}")
