"""One config with several seeds: each an ordinary run, and beside them what they say together.

A training that was cut short goes on with the seeds that are missing. See `training.run` for the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from training import corpus as corpora
from training import run
from training import train as single
from training.console import say
from training.errors import ConfigError
from training.files import write_json

PREFIX = "seed-"
_BOUND = re.compile(r"_(low|high)$")  # of a seed's own interval over texts: averaged, but with no spread of its own


def train(settings: Sequence[single.AnyConfig], output: Path | None = None, *, track: bool = True) -> Path:
    """Trains every seed into a run of its own and returns the folder of them all; finished ones are reused.

    Args:
        settings: at least two, alike but for the seed.
        output: the folder; None for `runs/<name>-seeds-<key>`. Seeds of the same inputs that were trained there
            before stay members; a finished run of other inputs is kept under its own key.
        track: log to MLflow: every seed while it trains, then a parent run over them.

    Raises:
        ConfigError: fewer than two seeds.
        CorpusError, EncoderError, RunError: see their messages.
    """
    if len(settings) < 2:
        raise ConfigError("--seeds: expected 2 or more, found 1; for one run leave it out.")
    first = settings[0]
    key = f"seeds-{single.run_key(first, corpora.load(first.corpus))}"
    folder = output or run.RUNS / f"{first.name}-{key}"
    _make_room(folder, key)
    for number, one in enumerate(settings, 1):
        say(f"seed {one.seed} ({number} of {len(settings)})")
        single.train(one, folder / f"{PREFIX}{one.seed}", track=track)
    before = [name for name in (run.record(folder) or {}).get("members", []) if run.finished(folder / name)]
    members = {*before, *(f"{PREFIX}{one.seed}" for one in settings)}
    _write(folder, key, sorted(members, key=lambda name: int(name.removeprefix(PREFIX))))
    say(table(folder, "test"))
    say(f"folder of the seeds: {folder}")
    if track:
        from training import nested

        nested.log_softly(folder)
    return folder


def summarise(folder: Path) -> dict[str, Any]:
    """Writes what the seeds in `folder` say together anew, after a later evaluation; returns `seeds.json`.

    Raises:
        RunError: one of the seeds is gone.
    """
    record = run.record(folder) or {}
    return _write(folder, record["key"], record["members"])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, sample standard deviation, and the bounds `low` and `high` of Student's 95% interval of the mean.

    The interval is over trainings: how far the mean of these seeds may be from that of all seeds, on the same texts
    (Student 1908, "The Probable Error of a Mean"). With few seeds it is wide, and it knows nothing of 0 and 1.
    """
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
    return {"mean": mean, "std": deviation, "low": mean - half, "high": mean + half}


def table(folder: Path, prefix: str) -> str:
    """The figures of one split over the seeds, for people."""
    record = run.record(folder) or {}
    figures: Mapping[str, Mapping[str, float]] = record["figures"]

    def value(name: str) -> str:
        found = figures.get(f"{prefix}/{name}")
        return f"{found['mean']:.3f} ± {found['std']:.3f}" if found else "–"

    columns = ("precision", "recall", "f1", "ap")
    lines = [f"{prefix + ' ':·<16}" + "".join(f"{name:>15}" for name in columns)]
    lines += [
        f"{label:<16}" + "".join(f"{value(f'{name}_{label}'):>15}" for name in columns) for label in record["labels"]
    ]
    headline = figures[f"{prefix}/macro_f1"]
    rest = [
        f"{name} {value(name)}" for name in ("background_f1", "exact_match", "ece") if f"{prefix}/{name}" in figures
    ]
    return "\n".join(
        [
            *lines,
            f"macro_f1 {value('macro_f1')}  " + "  ".join(rest),
            f"mean ± standard deviation over {len(record['members'])} seeds of {record['name']}; macro_f1 over other "
            f"seeds: 95% interval [{headline['low']:.3f}, {headline['high']:.3f}]",
        ]
    )


def _make_room(folder: Path, key: str) -> None:
    """As for one run, but finished seeds of a training that was cut short stay."""
    record = run.record(folder)
    there = [child.name for child in folder.iterdir()] if folder.exists() else []
    if (record and record["key"] != key) or (not record and not any(name.startswith(PREFIX) for name in there)):
        single.make_room(folder, record)


def _write(folder: Path, key: str, members: Sequence[str]) -> dict[str, Any]:
    records = [run.finished(folder / name) or {} for name in members]
    measured = [json.loads((folder / name / "metrics.json").read_text(encoding="utf-8")) for name in members]
    shared = {name: [one[name] for one in measured] for name in measured[0] if all(name in one for one in measured)}
    figures = {name: spread(values) for name, values in shared.items() if not _BOUND.search(name)}
    flat = {name: float(np.mean(values)) for name, values in shared.items()}
    write_json(folder / "metrics.json", flat | {f"{name}_std": one["std"] for name, one in figures.items()})
    record = {
        **{name: records[0][name] for name in ("name", "family", "labels", "task", "corpus")},
        "key": key,
        "members": list(members),
        "finished": max(one["finished"] for one in records),
        "figures": figures,
        "mlflow_run_id": (run.record(folder) or {}).get("mlflow_run_id"),
    }
    write_json(folder / run.SEEDS, record)
    return record
