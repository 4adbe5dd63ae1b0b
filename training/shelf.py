"""What lies in `runs/` and what it weighs; weights that nobody needs any more can go, figures stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training import run, tracking
from training.console import say
from training.errors import RunError

FINISHED, INTERRUPTED = "finished", "interrupted"


@dataclass(frozen=True)
class Entry:
    """One folder in `runs/`.

    Attributes:
        folder: a run's, or that of several seeds.
        state: "finished", or "interrupted" where a training was cut short or is still going on.
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
    """Every run in `runs/`: the finished ones, the newest first, then the interrupted ones by name."""
    done = run.all_finished()
    others = sorted(folder for folder in run.RUNS.glob("*") if folder not in done and _started(folder))
    return [_entry(folder) for folder in (*done, *others)]


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
    say(table(entries()))
    say(f"tracker: {tracking.disk_use()}")
    return 0


def table(found: Sequence[Entry]) -> str:
    """The runs for people."""
    if not found:
        return f"no run in {run.RUNS}/; train one first."
    width = max(len(str(one.folder)) for one in found)
    lines = [f"{'run':<{width}}  {'state':<11}  {'finished':<16}  test macro-F1  weights MiB  all MiB"]
    for one in found:
        score = "–" if one.macro_f1 is None else f"{one.macro_f1:.3f}"
        weights = _megabytes(one.weights) if one.weights or one.state == INTERRUPTED else "deleted"
        finished = (one.finished or "–")[:16].replace("T", " ")
        name = f"{one.folder!s:<{width}}"
        lines.append(f"{name}  {one.state:<11}  {finished:<16}  {score:>13}  {weights:>11}  {_megabytes(one.size):>7}")
    if any(one.state == INTERRUPTED for one in found):
        lines.append("interrupted: cut short or still training; never compared, promoted or exported")
    return "\n".join([*lines, f"{run.RUNS}/: {_megabytes(sum(one.size for one in found))} MiB"])


def _entry(folder: Path) -> Entry:
    record = run.record(folder)
    try:
        figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8")) if record else {}
    except (OSError, ValueError):
        figures = {}
    return Entry(
        folder=folder,
        state=FINISHED if record else INTERRUPTED,
        finished=record["finished"] if record else None,
        macro_f1=figures.get("test/macro_f1"),
        weights=sum(_size(model) for model in (folder / run.WEIGHTS, *folder.glob(f"*/{run.WEIGHTS}"))),
        size=_size(folder),
    )


def _started(folder: Path) -> bool:
    """Whether a training began here, of one run or of several seeds."""
    return (folder / "config.yaml").exists() or any(folder.glob("seed-*/config.yaml"))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.0f}"
