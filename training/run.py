"""One run's folder: what is in it, when it is whole, and how to find one by name.

config.yaml            as resolved
begun.json             key of its inputs, status (running, interrupted, failed, finished), uid that MLflow knows it by
checkpoint/            while it trains: what it goes on from when it was cut short
history.jsonl          figures of each epoch
model/                 weights; `python -m training runs --delete-weights` takes them out and leaves the rest
calibration.json       temperature and thresholds
predictions/*.jsonl    the rows of validation, test and other evaluations, with their probabilities
predictions/bias.json  the report of `python -m training bias`, where it was asked for
environment.json       Python, packages, processor, commit
metrics.json           every figure, under the names that MLflow has
run.json               written after all of these: a folder with it is a finished run

What follows is made from the above, by `python -m training report` as often as one likes:

analysis/NAME.json     of each evaluation: slices, worst errors, confused intents, coverage curve
analysis/NAME-errors.csv
figures/*.png
report.html            all of it on one page

Several seeds of one config share a folder:

seed-N/                each an ordinary run
metrics.json           means over the seeds, and standard deviations as NAME_std
seeds.json             written last: the members, and mean, deviation and interval of every figure
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from training import ranks
from training.console import warn
from training.errors import RunError
from training.files import write_json

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path("runs")
BEGUN = "begun.json"
DONE = "run.json"
SEEDS = "seeds.json"
SWEEP, TRIAL = "sweep.json", "trial.json"  # in the folders that `training.sweep` describes
WEIGHTS = "model"
_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "scikit-learn",
    "numpy",
    "onnxruntime",
    "mlflow",
    "communique",
)


def finished(folder: Path) -> dict[str, Any] | None:
    """What `run.json` says, or None where the run is missing or not whole yet."""
    return _read(folder / DONE)


def begun(folder: Path) -> dict[str, Any]:
    """What `begun.json` says; empty where there is none."""
    return _read(folder / BEGUN) or {}


def mark(folder: Path, **values: Any) -> None:
    """Writes values into `begun.json`, beside those that it has."""
    write_json(folder / BEGUN, {**begun(folder), **values})


def uid(folder: Path) -> str:
    """Tells the training in a folder from all others, on every machine; made where it has none."""
    known = begun(folder).get("uid")
    if not known:
        known = uuid.uuid4().hex
        mark(folder, uid=known)
    return str(known)


def record(folder: Path) -> dict[str, Any] | None:
    """What `run.json` says or, of a folder of seeds, `seeds.json`; None where neither is there."""
    return finished(folder) or _read(folder / SEEDS)


def members(folder: Path) -> list[Path]:
    """The finished runs in a folder: those of its seeds, or itself.

    Raises:
        RunError: one of the seeds is gone.
    """
    names = (record(folder) or {}).get("members")
    found = [folder / name for name in names] if names else [folder]
    if gone := [member.name for member in found if finished(member) is None]:
        raise RunError(f"{folder}: {', '.join(gone)} is not a finished run ({DONE} is missing). Train it again.")
    return found


def all_finished() -> dict[Path, dict[str, Any]]:
    """Runs and folders of seeds in `runs/` that are finished, with their records, the newest first."""
    found = [(child, record(child)) for child in RUNS.glob("*") if child.is_dir()]
    return dict(sorted(((child, one) for child, one in found if one), key=_age, reverse=True))


def find(name: str) -> Path:
    """A folder with a run or several seeds, by path or config's name (then the newest finished one in `runs/`).

    Raises:
        RunError: there is none, or the one named was cut short.
    """
    folder = Path(name)
    if folder.is_dir():
        if record(folder) is None:
            raise RunError(f"{folder}: is not a finished run ({DONE} is missing). Train it again.")
        return folder
    stem = folder.stem if folder.suffix in (".yaml", ".yml") else name
    there = all_finished()
    named = [child for child, one in there.items() if one["name"] == stem]
    if not named:
        known = sorted({one["name"] for one in there.values()})
        raise RunError(
            f"{name}: no such run folder, and no finished run of that name in {RUNS}/"
            + (f" (there are {', '.join(known)})." if known else "; train one first.")
        )
    return named[0]


def find_one(name: str) -> Path:
    """As `find`, but one run: of a folder of seeds the one best on validation, with a line that says so.

    Raises:
        RunError: there is none.
    """
    folder = find(name)
    runs = members(folder)
    if runs == [folder]:
        return folder
    scores = [json.loads((one / "metrics.json").read_text(encoding="utf-8"))["val/macro_f1"] for one in runs]
    best = max(range(len(runs)), key=lambda place: scores[place])
    warn(f"{folder} holds {len(runs)} seeds; {runs[best].name} is taken, best on validation ({scores[best]:.3f}).")
    return runs[best]


def environment() -> dict[str, Any]:
    """Python, packages, processor, processes and commit: what a figure may hang on."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "processes": ranks.count(),
        "packages": versions,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
    }


def _age(entry: tuple[Path, dict[str, Any]]) -> tuple[str, Path]:
    return entry[1]["finished"], entry[0]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
