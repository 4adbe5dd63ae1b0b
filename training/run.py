"""One run's folder: what is in it, when it is whole, and how to find one by name.

config.yaml            as resolved
history.jsonl          figures of each epoch
model/                 weights
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
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from training.errors import RunError

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path("runs")
DONE = "run.json"
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
    """What `run.json` says, or None where the run is missing or was cut short."""
    try:
        record = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def find(name: str) -> Path:
    """A run's folder, from its path or its config's name (then the newest finished one in `runs/`).

    Raises:
        RunError: there is none, or the one named was cut short.
    """
    folder = Path(name)
    if folder.is_dir():
        if finished(folder) is None:
            raise RunError(f"{folder}: is not a finished run ({DONE} is missing). Train it again.")
        return folder
    stem = folder.stem if folder.suffix in (".yaml", ".yml") else name
    found = [(finished(child), child) for child in sorted(RUNS.glob("*")) if child.is_dir()]
    named = [(record["finished"], child) for record, child in found if record and record["name"] == stem]
    if not named:
        known = sorted({record["name"] for record, _ in found if record})
        raise RunError(
            f"{name}: no such run folder, and no finished run of that name in {RUNS}/"
            + (f" (there are {', '.join(known)})." if known else "; train one first.")
        )
    return max(named)[1]


def environment() -> dict[str, Any]:
    """Python, packages, processor and commit: what a figure may hang on."""
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
        "packages": versions,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
    }


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
