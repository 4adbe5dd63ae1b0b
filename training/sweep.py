"""Looks for a better config by training many: Optuna proposes, validation judges, the winner is written as a config.

The test split is taken out before the first trial, so nothing can be chosen by it.

runs/sweeps/NAME/
    sweep.yaml     the sweep as resolved, its storage without password; base.yaml: the config that it is over
    study.sqlite   what Optuna knows, where the sweep names no other storage
    trial-N/       config.yaml, environment.json, history.jsonl, metrics.json of validation; trial.json, written last
    best.yaml      the config of the best trial so far, for `train`
    sweep.json     how far it is
    figures/*.png
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.study import MaxTrialsCallback, Study
from optuna.trial import FrozenTrial, Trial, TrialState

from training import calibrate, config, evaluate, run, search, study
from training import corpus as corpora
from training import train as single
from training.console import say, warn
from training.corpus import Corpus
from training.errors import DivergedError, SweepError, TrackingError
from training.files import write_json, write_text
from training.fitted import Fitted
from training.search import Choices, SweepConfig

BEST = 5  # rows of the table
FAILURES = 3  # in a row, and the sweep ends: something other than the values is wrong
IMPORTANT = 10  # finished trials from which on importances say anything
STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
# What a trial's values may bring about: torch says with a RuntimeError that a GPU is full, scikit-learn with a
# ValueError that no feature is left. A fault of the program shows as well, in the trial's line and after FAILURES.
_FAILING = (DivergedError, MemoryError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Sweep:
    """A sweep as it runs in this process.

    Attributes:
        path: of its config, as typed.
        settings: the sweep.
        base: the config that it is over.
        data: its corpus without the test split.
        folder: where everything goes.
        track: whether MLflow gets a copy.
    """

    path: str
    settings: SweepConfig
    base: single.AnyConfig
    data: Corpus
    folder: Path
    track: bool


def sweep(path: str, trials: int | None = None, *, track: bool = True) -> Path:
    """Runs a sweep until its trials are done, going on with what is there; returns the winner's config.

    Args:
        path: of the sweep's config.
        trials: in place of the config's.
        track: log to MLflow: each trial when it has ended, under a run for the sweep.

    Raises:
        ConfigError, CorpusError, EncoderError, SweepError: see their messages.
    """
    settings = search.load(path)
    settings = settings.model_copy(update={"trials": trials or settings.trials})
    base = config.load(settings.config)
    data = corpora.without_test(corpora.load(base.corpus))
    one = Sweep(path, settings, base, data, run.RUNS / "sweeps" / settings.name, track)
    one.folder.mkdir(parents=True, exist_ok=True)
    first = _of_base(one)
    with study.opened(settings, one.folder, _inputs(one), first) as opened:
        shown = {"storage": settings.storage and search.masked(settings.storage)}
        write_text(one.folder / "sweep.yaml", config.written(settings.model_dump(exclude_unset=True) | shown))
        write_text(one.folder / "base.yaml", config.dump(base))
        write_json(one.folder / "environment.json", run.environment())
        say(f"sweep {settings.name} over {settings.config}: {', '.join(settings.search)}")
        say(f"{_done(one, opened)}; everything is in {one.folder}")
        if first is None:
            say(f"{settings.config} is not tried as it is, because the search does not hold its values")
        _keep(one, opened, "running", None)
        try:
            while len(study.counted(opened)) < settings.trials:
                _run(one, opened)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                say(f"stopped: {_done(one, opened)} and kept; go on with: python -m training sweep {path}")
            _keep(one, opened, "interrupted")
            raise
        return _finish(one, opened)


def _run(one: Sweep, opened: Study) -> None:
    try:
        opened.optimize(
            partial(_objective, one), catch=_FAILING,
            callbacks=[partial(_ended, one), MaxTrialsCallback(one.settings.trials, states=study.COUNTED)],
        )  # fmt: skip
    except (ValueError, AssertionError) as error:  # Optuna trips over its own assertion
        if "Cannot tell a FAIL trial" not in f"{error} {error.__context__}":
            raise
        # another process took this one for dead: asleep, say, with the laptop's lid closed
        warn(f"nothing was heard of this process for over {study.GRACE} seconds, so its trial was given up; going on")


def _objective(one: Sweep, trial: Trial) -> float:
    try:
        return _trained(one, trial)
    except _FAILING as error:
        trial.set_user_attr("failure", str(error).partition("\n")[0][:300] or type(error).__name__)
        raise


def _trained(one: Sweep, trial: Trial) -> float:
    """Trains with the values that the trial proposes; returns the objective."""
    values = {key: _drawn(one, trial, key) for key in one.settings.search}
    settings = _resolved(one, values, f"{one.settings.name}-{trial.number}")
    folder = _folder(one, trial.number)
    if folder.exists():  # of a study that was deleted
        shutil.rmtree(folder)
    write_text(folder / "config.yaml", config.dump(settings))
    write_json(folder / "environment.json", run.environment())

    def on_epoch(epoch: int, figures: Mapping[str, float]) -> None:
        with (folder / "history.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"epoch": epoch, "time": time.time(), **figures}) + "\n")
        trial.report(figures[one.settings.objective], epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    start = time.perf_counter()
    fitted = single.fit(settings, one.data, on_epoch)
    seconds = time.perf_counter() - start
    figures = _on_validation(fitted, one.data)
    write_json(folder / "metrics.json", {"time/fit_seconds": seconds, **figures})
    return figures[one.settings.objective]


def _drawn(one: Sweep, trial: Trial, key: str) -> Any:
    span = one.settings.search[key]
    if isinstance(span, Choices):
        return trial.suggest_categorical(key, span.choices)
    if type(one.base).model_fields[key].annotation is int:
        return trial.suggest_int(key, int(span.low), int(span.high), step=int(span.step or 1), log=span.log)
    return trial.suggest_float(key, span.low, span.high, step=span.step, log=span.log)


def _on_validation(fitted: Fitted, data: Corpus) -> dict[str, float]:
    """The figures that `train` gives under the same names."""
    split, calibration = data.validation, single.calibrated(fitted, data)
    values = calibrate.probabilities(fitted.logits(split.texts), calibration.temperature, data.task)
    found = evaluate.figures(
        split.truth, values, calibration.thresholds, labels=data.labels, task=data.task, groups=split.groups
    )
    return {f"val/{name}": value for name, value in found.items()}


def _ended(one: Sweep, opened: Study, trial: FrozenTrial) -> None:
    """After each trial that finished, was pruned or failed."""
    failure = trial.user_attrs.get("failure")
    write_json(_folder(one, trial.number) / run.TRIAL, {**_plain(trial), "failure": failure, "mlflow_run_id": None})
    say(_line(one, opened, trial))
    _keep(one, opened, "running", [_folder(one, trial.number)])
    recent = [other for other in opened.get_trials(deepcopy=False) if other.state.is_finished()][-FAILURES:]
    if len(recent) == FAILURES and all("failure" in other.user_attrs for other in recent):
        raise SweepError(
            f"sweep {one.settings.name}: {FAILURES} trials in a row failed, the last because: {failure}. Narrow the "
            "search under another name, or mend what it says; the same command goes on."
        )


def _keep(one: Sweep, opened: Study, state: str, ended: Sequence[Path] | None = ()) -> None:
    """Writes how far the sweep is and its best config; logs both, and the trials in `ended` (None: all not logged)."""
    best = next(iter(study.ranked(opened)), None)
    key = _digest({"name": one.settings.name, **_inputs(one)})
    write_json(one.folder / run.SWEEP, {
        "name": one.settings.name, "key": key, "state": state, "config": one.settings.config,
        "objective": one.settings.objective, "searched": list(one.settings.search), "trials": one.settings.trials,
        "counts": _counts(opened), "best": _plain(best) if best else None,
    })  # fmt: skip
    if best is not None:
        head = (
            f"# The best of the sweep {one.settings.name}: trial {best.number}, {one.settings.objective} "
            f"{best.value:.4f} on the validation split, which chose it.\n"
            f"# Made with `python -m training sweep {one.path}` from {one.settings.config}.\n"
        )
        text = head + config.dump(_resolved(one, best.params, f"{one.settings.name}-best"))
        write_text(one.folder / "best.yaml", text)
    if one.track:
        from training import nested

        try:
            nested.log_sweep(one.folder, ended)
        except TrackingError as error:
            warn(f"{error} Log it later with: python -m training log {one.folder}")


def _finish(one: Sweep, opened: Study) -> Path:
    """The table, the figures, and where the winner is."""
    from training import plots

    if not study.ranked(opened):
        raise SweepError(f"sweep {one.settings.name}: no trial finished, so there is no winner; give it more --trials.")
    trials = [_plain(trial) for trial in study.counted(opened)]
    plots.draw_sweep(trials, one.settings.objective, _importances(opened), one.folder / "figures")
    _keep(one, opened, "completed")
    say(_table(one, opened))
    winner = one.folder / "best.yaml"
    say(f"the winner is {winner}; its figure is the best of many on the texts that chose it, so expect less elsewhere:")
    say(f"python -m training train {winner} --seeds 3")
    return winner


def _importances(opened: Study) -> dict[str, float]:
    """Share of each key in how finished trials differ (fANOVA, Hutter et al. 2014); empty where they are few."""
    if len(study.ranked(opened)) < IMPORTANT:
        return {}
    try:
        return optuna.importance.get_param_importances(
            opened, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    except RuntimeError:  # no two trials differ
        return {}


def _line(one: Sweep, opened: Study, trial: FrozenTrial) -> str:
    """One trial, and how far the sweep is."""
    if trial.state == TrialState.FAIL:
        outcome = f"failed: {trial.user_attrs.get('failure', 'no figure')}"
    else:
        outcome = f"{one.settings.objective} {trial.value:.4f}"
        outcome += f", pruned after epoch {trial.last_step}" if trial.state == TrialState.PRUNED else ""
    values = "  ".join(f"{key} {_short(value)}" for key, value in trial.params.items())
    best = next((f"best {other.value:.4f} (trial {other.number}), " for other in study.ranked(opened)), "")
    seconds = [other.duration.total_seconds() for other in study.counted(opened) if other.duration]
    minutes = (one.settings.trials - len(seconds)) * sum(seconds) / max(1, len(seconds)) / 60
    left = f", about {minutes:.0f} min left" if minutes >= 1 else ""
    return f"trial {trial.number}: {outcome}  {values}  ({best}{_done(one, opened)}{left})"


def _table(one: Sweep, opened: Study) -> str:
    """The best trials, and how many ended how."""
    keys = list(one.settings.search)
    rows = [["trial", one.settings.objective, *keys]]
    for trial in study.ranked(opened)[:BEST]:
        rows.append([str(trial.number), f"{trial.value:.4f}", *(_short(trial.params[key]) for key in keys)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, ", ".join(f"{count} {state}" for state, count in _counts(opened).items())])


def _done(one: Sweep, opened: Study) -> str:
    return f"{len(study.counted(opened))} of {one.settings.trials} trials done"


def _counts(opened: Study) -> dict[str, int]:
    return dict(Counter(STATES[trial.state] for trial in opened.get_trials(deepcopy=False) if trial.state in STATES))


def _plain(trial: FrozenTrial) -> dict[str, Any]:
    value = trial.value if trial.state in study.COUNTED else None
    return {
        "number": trial.number, "state": STATES[trial.state], "value": value, "epochs": trial.last_step,
        "params": trial.params,
    }  # fmt: skip


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _folder(one: Sweep, number: int) -> Path:
    return one.folder / f"trial-{number}"


def _resolved(one: Sweep, values: Mapping[str, Any], name: str) -> single.AnyConfig:
    return config.changed(one.base, {**values, "name": name}, name)


def _of_base(one: Sweep) -> dict[str, Any] | None:
    """The base config's own values, tried first so that the winner is never below it; None where one may not be."""
    values = {key: getattr(one.base, key) for key in one.settings.search}
    return values if all(one.settings.search[key].holds(value) for key, value in values.items()) else None


def _inputs(one: Sweep) -> dict[str, str]:
    """Digests of what makes figures comparable; paths and names may differ from machine to machine."""
    return {
        "base config": _digest(one.base.model_dump(exclude={"name", "corpus"})),
        "corpus": one.data.sha256,
        "search": _digest({key: span.model_dump() for key, span in one.settings.search.items()}),
        "objective": one.settings.objective,
    }


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
