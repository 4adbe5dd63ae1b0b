"""Evaluating a finished run again: on its test split, or on any labelled file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from training import corpus as corpora
from training import report, run, seeds, tracking
from training.console import say
from training.errors import RunError
from training.files import write_json
from training.train import evaluated, restore, table

_OWN = ("train", "validation", "val", "test", "behaviour", "bias")  # names of what a run measures by itself


def run_on(target: str, on: Path | None, prefix: str | None) -> tuple[dict[str, float], str, tuple[str, ...]]:
    """Figures of the run `target` on `on`, or on its corpus' test split; also kept with the run and in MLflow.

    Returns:
        The figures under `prefix/…`, the prefix, and the labels.

    Raises:
        RunError, CorpusError: the run, the file or the prefix is not fit for it.
    """
    folder = run.find_one(target)
    fitted, calibration, settings = restore(folder)
    record = run.finished(folder) or {}
    labels, task = tuple(record["labels"]), record["task"]
    name = prefix or (on.stem if on else "test")
    if Path(name).name != name or (name in _OWN and (on or name != "test")):
        raise RunError(
            f"{name!r} cannot name an evaluation of {on or 'the test split'}: expected no path and none of "
            f"{', '.join(_OWN)}, which the run has already. Choose another with --prefix."
        )
    split = corpora.load(settings.corpus).test if on is None else corpora.load_file(on, labels, task)
    found = evaluated(fitted, calibration, replace(split, name=name), labels, task, folder)
    figures = {f"{name}/{key}": value for key, value in found.items()}
    keep(folder, figures)
    return figures, name, labels


def keep(folder: Path, figures: Mapping[str, float]) -> None:
    """Adds figures of a later measurement to the run's metrics.json and page, and to MLflow where the run is there."""
    stored = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    write_json(folder / "metrics.json", {**stored, **figures})
    report.write(folder)
    tracking.log_figures(folder, figures)
    tracking.log_files(folder)


def command(target: str, on: Path | None, prefix: str | None, *, as_json: bool) -> int:
    """The `evaluate` command; of a folder of seeds, every seed is evaluated."""
    folder = run.find(target)
    runs = run.members(folder)
    for member in runs:
        figures, name, labels = run_on(str(member), on, prefix)
    if runs == [folder]:
        say(json.dumps(figures, indent=2) if as_json else table(figures, name, labels))
        return 0
    together = {key: one for key, one in seeds.summarise(folder)["figures"].items() if key in figures}
    stored = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    tracking.log_figures(folder, {key: one for key, one in stored.items() if key.startswith(f"{name}/")})
    say(json.dumps(together, indent=2) if as_json else seeds.table(folder, name))
    return 0
