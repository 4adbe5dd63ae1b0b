"""One training from config to finished run folder: fit, calibrate, evaluate, draw, track."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from training import actors, behaviour, calibrate, checkpoint, config, evaluate, ranks, run
from training import corpus as corpora
from training.calibrate import Calibration
from training.checkpoint import Checkpoints
from training.console import say, warn
from training.corpus import Corpus, Split
from training.errors import ConfigError, CorpusError, DivergedError, RunError
from training.files import PARTIAL, sha256, write_json, write_json_lines, write_text
from training.fitted import Fitted

AnyConfig = config.AnyConfig
_FINE_TUNING = ("batches.py", "encoder.py", "pretrained.py", "recipe.py", "state.py")
_MODULES = {"baseline": ("baseline.py",), "frozen": (*_FINE_TUNING, "frozen.py"), "encoder": _FINE_TUNING}
_TRANSFORMERS = ("torch", "transformers", "tokenizers")
_DECIDING = {"baseline": ("scikit-learn",), "frozen": ("scikit-learn", *_TRANSFORMERS), "encoder": _TRANSFORMERS}
_PREDICTED = ("id", "scenario", "text", "intents", "probabilities")  # a corpus' other fields come after them


def train(settings: AnyConfig, output: Path | None = None, *, track: bool = True) -> Path:
    """Trains once and returns the run's folder; of the same inputs, a finished run is reused and one cut short goes on.

    Args:
        settings: the resolved config.
        output: the run's folder; None for `runs/<name>-<key>`, the key telling inputs apart. A finished run
            of other inputs that stands there is kept under its own key.
        track: log to MLflow, while training and at the end.

    Raises:
        ConfigError: several processes, and a family that trains in one.
        CorpusError, EncoderError, RunError: see their messages.
    """
    if ranks.count() > 1 and not isinstance(settings, config.EncoderConfig):
        raise ConfigError(
            f"{settings.name}: family {settings.family} trains in one process, found {ranks.count()}; "
            "leave torchrun out."
        )
    data = corpora.load(settings.corpus)
    key = run_key(settings, data)
    folder = output or run.RUNS / f"{settings.name}-{key}"
    with checkpoint.explained(folder), checkpoint.alone(folder):
        record = run.finished(folder)
        if record and record["key"] == key:
            say(f"{folder}: finished already with the same config, corpus and code; reused.")
            _complete(folder, track)
            return folder
        if run.begun(folder).get("key") != key:
            make_room(folder, run.record(folder))
            folder.mkdir(parents=True)
            write_text(folder / "config.yaml", config.dump(settings))
        write_json(folder / "environment.json", run.environment())
        run.mark(folder, key=key, status="running")
        say(f"config ({folder / 'config.yaml'}):")
        say("  " + config.dump(settings).strip().replace("\n", "\n  "))
        say(f"corpus {data.name} {data.version}: " + ", ".join(f"{split.name} {len(split)}" for split in data.splits))

        tracker = None
        try:
            tracker = _tracker(folder, settings, data) if track else None
            _train_into(folder, settings, data, key, tracker)
        except BaseException as error:  # Ctrl-C as well
            stopped = isinstance(error, KeyboardInterrupt)
            with contextlib.suppress(OSError):  # a full disk may be the reason
                run.mark(folder, status="interrupted" if stopped else "failed")
            if tracker:
                tracker.interrupt(error)
            if stopped:
                warn(f"{folder} is marked as interrupted; the same command goes on with it.")
            raise
    return folder


def follow() -> None:
    """What a process does that is not the first: fits with it, whenever it calls.

    Raises:
        CorpusError: the corpus is not here, or is another one here.
        EncoderError, RunError: see their messages.
    """

    def work(job: tuple[AnyConfig, str]) -> None:
        settings, sha256 = job
        data = corpora.load(settings.corpus)
        if data.sha256 != sha256:
            raise CorpusError(
                f"{data.folder}: process {ranks.number()} finds another corpus there ({data.sha256[:12]}…) than the "
                f"first ({sha256[:12]}…); bring the same one to every machine."
            )
        fit(settings, data, lambda epoch, figures: None)

    ranks.follow(work)


def _train_into(folder: Path, settings: AnyConfig, data: Corpus, key: str, tracker: Any) -> None:
    history = folder / "history.jsonl"

    def on_epoch(epoch: int, figures: Mapping[str, float]) -> None:
        lines = history.read_text(encoding="utf-8").splitlines() if history.exists() else []
        rows = [row for row in map(json.loads, lines) if row["epoch"] < epoch]  # a training that goes on may repeat one
        write_json_lines(history, [*rows, {"epoch": epoch, "time": time.time(), **figures}])
        say(f"epoch {epoch:>3}  " + "  ".join(f"{name} {value:.4g}" for name, value in sorted(figures.items())))
        if tracker:
            tracker.epoch(epoch, figures)

    checkpoints = Checkpoints(folder / "checkpoint")
    ranks.call((settings, data.sha256))
    fitted = fit(settings, data, on_epoch, checkpoints)
    seconds = checkpoints.seconds
    calibration = calibrated(fitted, data)
    fitted.save(folder / "model")
    write_json(folder / "calibration.json", {
        "temperature": calibration.temperature, "thresholds": list(calibration.thresholds),
        "labels": list(data.labels), "task": data.task,
    })  # fmt: skip
    figures = {"time/fit_seconds": seconds, "size/parameters": float(fitted.parameters)}
    for split in (data.validation, data.test):
        prefix = "val" if split is data.validation else "test"
        found = evaluated(fitted, calibration, split, data.labels, data.task, folder)
        figures |= {f"{prefix}/{name}": value for name, value in found.items()}
    figures |= _behaved(fitted, calibration, data, folder)
    write_json(folder / "metrics.json", figures)
    write_json(folder / run.DONE, _record(settings, data, key))
    say(table(figures, "test", data.labels))
    if suites := [f"{name} {value:.3f}" for name, value in figures.items() if name.startswith("behaviour/")]:
        say("  ".join(suites))
    say(f"run folder: {folder}, report: {_reported(folder)}")
    if tracker:
        tracker.finish(folder)
    _complete(folder, track=False)


def fit(settings: AnyConfig, data: Corpus, on_epoch: Any, checkpoints: Checkpoints | None = None) -> Fitted:
    """Fits the config's family; its module, and so torch or scikit-learn, is imported here.

    `checkpoints` is for the family that takes long; the others start again.
    """
    if isinstance(settings, config.BaselineConfig):
        from training import baseline

        return baseline.fit(settings, data, on_epoch)
    if isinstance(settings, config.FrozenConfig):
        from training import frozen

        return frozen.fit(settings, data, on_epoch)
    from training import encoder

    return encoder.fit(settings, data, on_epoch, checkpoints)


def calibrated(fitted: Fitted, data: Corpus) -> Calibration:
    """All that validation decides once there are weights: the logits are shifted, temperature and thresholds returned.

    Raises:
        DivergedError: the model answers with no numbers.
    """
    split = data.validation
    logits = fitted.logits(split.texts)
    if not np.isfinite(logits).all():
        raise DivergedError("the training diverged: the model answers with no numbers.")
    fitted.shift(calibrate.shifts(logits, split.truth, data.task).tolist())
    return calibrate.fit(fitted.logits(split.texts), split.truth, data.task)


def restore(folder: Path) -> tuple[Fitted, Calibration, AnyConfig]:
    """The model, calibration and config of a finished run.

    Raises:
        RunError: the run is not finished, or its weights were deleted.
    """
    if run.finished(folder) is None:
        raise RunError(f"{folder}: is not a finished run ({run.DONE} is missing). Train it again.")
    if not (folder / run.WEIGHTS).exists():
        raise RunError(
            f"{folder}: its weights were deleted; its figures are whole. To have them again: "
            f"python -m training train {folder / 'config.yaml'} --output FOLDER"
        )
    settings = config.load(folder / "config.yaml")
    stored = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    calibration = Calibration(stored["temperature"], tuple(stored["thresholds"]))
    if isinstance(settings, config.BaselineConfig):
        from training import baseline

        return baseline.load(folder / "model"), calibration, settings
    from training import encoder

    return encoder.load(folder / "model"), calibration, settings


def evaluated(
    fitted: Fitted, calibration: Calibration, split: Split, labels: tuple[str, ...], task: str, folder: Path
) -> dict[str, float]:
    """Figures of one split; its rows with their probabilities are written into `predictions/`."""
    values = calibrate.probabilities(fitted.logits(split.texts), calibration.temperature, task)
    rows = (
        {
            "id": row["id"],
            "scenario": group,
            "text": row["text"],
            "intents": row["intents"],
            "probabilities": [round(float(p), 6) for p in probabilities],
            **{field: value for field, value in row.items() if field not in _PREDICTED},
        }
        for row, group, probabilities in zip(split.rows, split.groups, values, strict=True)
    )
    write_json_lines(folder / "predictions" / f"{split.name}.jsonl", rows)
    return evaluate.figures(split.truth, values, calibration.thresholds, labels=labels, task=task, groups=split.groups)


def table(figures: Mapping[str, float], prefix: str, labels: tuple[str, ...]) -> str:
    """The figures of one split as a small table for people."""

    def value(name: str) -> str:
        return f"{figures[f'{prefix}/{name}']:.3f}" if f"{prefix}/{name}" in figures else "    –"

    lines = [f"{prefix + ' ':·<16}precision  recall     f1     ap  texts"]
    for label in labels:
        cells = "  ".join(f"{value(f'{name}_{label}'):>6}" for name in ("recall", "f1", "ap"))
        support = int(figures[f"{prefix}/support_{label}"])
        lines.append(f"{label:<16}{value(f'precision_{label}'):>9}  {cells}  {support:>5}")
    interval = f" [{value('macro_f1_low')}, {value('macro_f1_high')}]" if f"{prefix}/macro_f1_low" in figures else ""
    rest = [
        f"{name} {value(name)}" for name in ("background_f1", "exact_match", "ece") if f"{prefix}/{name}" in figures
    ]
    return "\n".join([*lines, f"macro_f1 {value('macro_f1')}{interval}  " + "  ".join(rest)])


def _behaved(fitted: Fitted, calibration: Calibration, data: Corpus, folder: Path) -> dict[str, float]:
    """Pass rates of the behavioural suites, where the corpus has the labels that they are about."""
    cases = behaviour.load(run.ROOT / behaviour.FOLDER)
    if not behaviour.apply_to(cases, data.labels, data.task):
        return {}

    def predict(texts: Sequence[str]) -> list[frozenset[str]]:
        values = calibrate.probabilities(fitted.logits(texts), calibration.temperature, data.task)
        decided = evaluate.decide(values, calibration.thresholds, data.task)
        return [frozenset(np.asarray(data.labels)[row > 0].tolist()) for row in decided]

    outcomes = behaviour.run(cases, predict)
    rows = (
        {**outcome.case, "group": outcome.group, "passed": outcome.passed, "found": outcome.found}
        for outcome in outcomes
    )
    write_json_lines(folder / "predictions" / "behaviour.jsonl", rows)
    return {f"behaviour/{name}": value for name, value in behaviour.figures(outcomes).items()}


def _reported(folder: Path) -> Path:
    from training import report

    return report.write(folder)


def _record(settings: AnyConfig, data: Corpus, key: str) -> dict[str, Any]:
    return {
        "name": settings.name,
        "family": settings.family,
        "key": key,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "labels": list(data.labels),
        "task": data.task,
        "corpus": {"name": data.name, "version": data.version, "sha256": data.sha256},
        "mlflow_run_id": None,
    }


def run_key(settings: AnyConfig, data: Corpus) -> str:
    """Eight hexadecimal digits over all that decides the weights."""
    here = Path(__file__).parent
    files = [here / name for name in ("calibrate.py", *_MODULES[settings.family])]
    if isinstance(settings, config.EncoderConfig) and settings.swap_actors:
        files += [here / "actors.py", actors.GAZETTEER]
    parts = [
        json.dumps(settings.model_dump(), sort_keys=True),
        data.sha256,
        *(sha256(file) for file in files),
        *(f"{name} {metadata.version(name)}" for name in _DECIDING[settings.family]),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def make_room(folder: Path, record: Mapping[str, Any] | None) -> None:
    """Keeps a finished run that stands in the way under its key; clears one that was cut short.

    Args:
        folder: where a run is to be.
        record: of the finished run or folder of seeds that is there; None where there is none.

    Raises:
        RunError: something else is there.
    """
    if record:
        kept = folder.with_name(f"{folder.name}-{record['key']}")
        if kept.exists():
            shutil.rmtree(kept)
        folder.rename(kept)
        warn(f"{folder} held a finished run of other inputs; it is kept as {kept}.")
    elif folder.exists() and any(PARTIAL not in child.name for child in folder.iterdir()):
        if not (folder / "config.yaml").exists():
            raise RunError(f"{folder}: is there already and is not a run; name another --output.")
        warn(f"{folder} held an unfinished run of other inputs; it is removed.")
        shutil.rmtree(folder)
    elif folder.exists():
        shutil.rmtree(folder)


def _tracker(folder: Path, settings: AnyConfig, data: Corpus) -> Any:
    from training import tracking

    return tracking.Tracker.start(folder, settings, data)


def _complete(folder: Path, track: bool) -> None:
    """Does for a finished run what is still to do, perhaps because it was killed just then."""
    Checkpoints(folder / "checkpoint").clear()
    for partial in folder.rglob(f".*{PARTIAL}*"):
        partial.unlink()
    if not (folder / "report.html").exists():
        _reported(folder)
    record = run.finished(folder)
    if track and record and not record["mlflow_run_id"]:
        from training import nested

        nested.log_softly(folder)
    if run.begun(folder).get("status", "finished") != "finished":
        run.mark(folder, status="finished")
