"""What lies in `runs/` and what it weighs; weights that nobody needs any more can go, figures stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training import checkpoint, run, store, tracking
from training.console import say
from training.errors import RunError

FINISHED, RUNNING, INTERRUPTED, FAILED = "finished", "running", "interrupted", "failed"


@dataclass(frozen=True)
class Entry:
    """One folder in `runs/`.

    Attributes:
        folder: a run's, or that of several seeds.
        state: "finished"; "running" where a training is at work; "interrupted" where one was stopped or killed;
            "failed" where one ended with an error.
        finished: when, as ISO 8601; None where it is not.
        macro_f1: on test; None where there is none.
        weights: bytes of its weights, those of all seeds; 0 where they were deleted.
        size: bytes of everything in it.
    """

    folder: Path
    state: str
    finished: str | None
    macro_f1: float | None
    weights: int
    size: int


def entries() -> list[Entry]:
    """Every run in `runs/`: the finished ones, the newest first, then the others by name."""
    done = run.all_finished()
    others = sorted(folder for folder in run.RUNS.glob("*") if folder not in done and _started(folder))
    return [_entry(folder) for folder in (*done, *others)]


def settle() -> None:
    """Marks trainings that a kill left as running, in their folders and in the tracker; warns where it cannot."""
    for begun in (*run.RUNS.glob(f"*/{run.BEGUN}"), *run.RUNS.glob(f"*/*/{run.BEGUN}")):
        folder = begun.parent
        if run.begun(folder).get("status") == RUNNING and not run.finished(folder) and not checkpoint.at_work(folder):
            tracking.mark_dead(folder)


def delete_weights(targets: Sequence[str]) -> int:
    """Deletes the weights of finished runs, of a folder of seeds all; returns how many bytes that frees.

    Everything else stays: figures, predictions, calibration, report. So do bundles that were exported.

    Raises:
        RunError: one of them is no finished run; then nothing is deleted.
    """
    models = [member / run.WEIGHTS for target in targets for member in run.members(run.find(target))]
    freed = sum(_size(model) for model in models)
    for model in models:
        shutil.rmtree(model, ignore_errors=True)
    if left := [str(model) for model in models if model.exists()]:
        raise RunError(f"{', '.join(left)}: could not be deleted. Look at the permissions of the folder.")
    return freed


def command(targets: Sequence[str]) -> int:
    """The `runs` command: deletes the weights of the targets, then lists what there is."""
    if targets:
        say(f"weights deleted: {_megabytes(delete_weights(targets))} MiB freed; figures and predictions stay")
    settle()
    say(table(entries()))
    say(f"tracker: {store.disk_use()}")
    return 0


def table(found: Sequence[Entry]) -> str:
    """The runs for people."""
    if not found:
        return f"no run in {run.RUNS}/; train one first."
    width = max(len(str(one.folder)) for one in found)
    lines = [f"{'run':<{width}}  {'state':<11}  {'finished':<16}  test macro-F1  weights MiB  all MiB"]
    for one in found:
        score = "–" if one.macro_f1 is None else f"{one.macro_f1:.3f}"
        weights = _megabytes(one.weights) if one.weights or one.state != FINISHED else "deleted"
        finished = (one.finished or "–")[:16].replace("T", " ")
        name = f"{one.folder!s:<{width}}"
        lines.append(f"{name}  {one.state:<11}  {finished:<16}  {score:>13}  {weights:>11}  {_megabytes(one.size):>7}")
    if any(one.state != FINISHED for one in found):
        lines.append("what is not finished is never compared, promoted or exported; training it again goes on with it")
    return "\n".join([*lines, f"{run.RUNS}/: {_megabytes(sum(one.size for one in found))} MiB"])


def _entry(folder: Path) -> Entry:
    record = run.record(folder)
    try:
        figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8")) if record else {}
    except (OSError, ValueError):
        figures = {}
    return Entry(
        folder=folder,
        state=FINISHED if record else _state(folder),
        finished=record["finished"] if record else None,
        macro_f1=figures.get("test/macro_f1"),
        weights=sum(_size(model) for model in (folder / run.WEIGHTS, *folder.glob(f"*/{run.WEIGHTS}"))),
        size=_size(folder),
    )


def _state(folder: Path) -> str:
    """Of a run that is not finished; of several seeds, of the one that is at work or was the last to stop short."""
    parts = [folder, *(begun.parent for begun in sorted(folder.glob(f"*/{run.BEGUN}")))]
    if any(checkpoint.at_work(part) for part in parts):
        return RUNNING
    return FAILED if FAILED in (run.begun(part).get("status") for part in parts) else INTERRUPTED


def _started(folder: Path) -> bool:
    """Whether a training began here, of one run or of several seeds."""
    return (folder / "config.yaml").exists() or any(folder.glob("seed-*/config.yaml"))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.0f}"
