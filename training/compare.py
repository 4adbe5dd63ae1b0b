"""Which of several runs is better on the same texts, and which differences are real.

Read from the predictions that lie with each run, at each run's own calibrated thresholds; nothing is predicted again.
A folder of seeds is one contestant, by its mean over the seeds. The test is in `training.significance`.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from training import evaluate, run, significance, verdict
from training.console import say, warn
from training.errors import RunError
from training.files import write_json, write_text
from training.significance import Comparison, Counts, Floats


@dataclass(frozen=True)
class Answer:
    """One line of a predictions file; `scenario` is None in files of earlier versions."""

    text: str
    intents: tuple[str, ...]
    scenario: str | None
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Contestant:
    """A run, or the seeds of one config, with its answers.

    Attributes:
        name: for people.
        folder: of the run or the seeds.
        key: tells inputs apart.
        labels: their names.
        task: "multi_label" or "single_label".
        answers: for each seed, by the text's id.
        thresholds: for each seed, one a label.
    """

    name: str
    folder: Path
    key: str
    labels: tuple[str, ...]
    task: str
    answers: tuple[Mapping[str, Answer], ...]
    thresholds: tuple[tuple[float, ...], ...]


def read(folder: Path, split: str) -> Contestant:
    """The contestant in the folder of a finished run or of seeds.

    Args:
        folder: as `run.find` gives it.
        split: "test", "validation", or the prefix that another file was evaluated under.

    Raises:
        RunError: there are no predictions of it.
    """
    record = run.record(folder) or {}
    answers, thresholds = [], []
    for member in run.members(folder):
        answers.append(_answers(member / "predictions" / f"{split}.jsonl", folder, split))
        stored = json.loads((member / "calibration.json").read_text(encoding="utf-8"))
        thresholds.append(tuple(stored["thresholds"]))
    labels, task = tuple(record["labels"]), record["task"]
    return Contestant(record["name"], folder, record["key"], labels, task, tuple(answers), tuple(thresholds))


def compare(contestants: Sequence[Contestant], split: str) -> Comparison:
    """Ranks contestants by macro-F1 and tests every pair.

    Raises:
        RunError: fewer than two; texts, truth or labels that differ; or too few scenarios to tell anything.
    """
    if len(contestants) < 2:
        raise RunError(f"expected two runs or more to compare, found {len(contestants)}.")
    first = contestants[0]
    for other in contestants:
        _check_alike(first, other)
    groups = _groups(contestants)
    if (found := len(set(groups))) < significance.MIN_SCENARIOS:
        raise RunError(
            f"{split}: has {found} scenarios; expected {significance.MIN_SCENARIOS} or more, because a test on fewer "
            "calls chance real too often. Compare on more texts."
        )
    counted = {one.name: _counted(one, first.answers[0], groups) for one in contestants}
    return significance.rank(counted, first.labels, split=split, texts=len(groups))


def command(
    targets: Sequence[str], *, everything: bool, split: str, out: Path | None, as_json: bool, track: bool
) -> int:
    """The `compare` command."""
    if bool(targets) is everything:
        raise RunError("expected the runs to compare, or --all for every finished one in runs/.")
    contestants = _named(_all(split) if everything else [read(run.find(target), split) for target in targets])
    comparison = compare(contestants, split)
    plain = {"runs": {one.name: str(one.folder) for one in contestants}, **verdict.plain(comparison)}
    say(json.dumps(plain, indent=2, ensure_ascii=False) if as_json else verdict.table(comparison))
    with tempfile.TemporaryDirectory(prefix="communique-compare-") as scratch:
        files = _write(comparison, plain, out or Path(scratch)) if out or track else []
        if track:
            from training import nested

            nested.log_comparison(files, verdict.markdown(comparison))
    return 0


def _all(split: str) -> list[Contestant]:
    """Every finished run that was evaluated on the texts of the newest; the others are named in a warning."""
    kept: dict[str, Contestant] = {}
    for folder in run.all_finished():
        try:
            one = read(folder, split)
            _check_alike(next(iter(kept.values()), one), one)
        except RunError as error:
            warn(f"left out: {error}")
        else:
            kept.setdefault(one.key, one)  # a copy of the same run says nothing new
    return list(kept.values())


def _named(contestants: Sequence[Contestant]) -> list[Contestant]:
    """The same ones under the shortest names that tell them apart: of the config, the folder, or the path."""
    count = len(contestants)
    if len({one.folder.resolve() for one in contestants}) < count:
        raise RunError(f"the same run is named twice: {', '.join(str(one.folder) for one in contestants)}.")
    shorter = ([one.name for one in contestants], [one.folder.name for one in contestants])
    names = next((names for names in shorter if len(set(names)) == count), [str(one.folder) for one in contestants])
    return [replace(one, name=name) for one, name in zip(contestants, names, strict=True)]


def _answers(path: Path, folder: Path, split: str) -> dict[str, Answer]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {
            row["id"]: Answer(row["text"], tuple(row["intents"]), row.get("scenario"), tuple(row["probabilities"]))
            for row in rows
        }
    except FileNotFoundError:
        raise RunError(
            f"{path}: no such predictions; make them with: "
            f"python -m training evaluate {folder} --on FILE --prefix {split}"
        ) from None
    except (KeyError, ValueError) as error:
        raise RunError(f"{path}: these are not predictions of labelled texts ({error}).") from None


def _check_alike(first: Contestant, other: Contestant) -> None:
    if (first.labels, first.task) != (other.labels, other.task):
        raise RunError(
            f"{first.folder} has labels {', '.join(first.labels)} ({first.task}), {other.folder} has "
            f"{', '.join(other.labels)} ({other.task}); only runs of the same task can be compared."
        )
    ours = first.answers[0]
    for theirs in other.answers:
        if missing := sorted(ours.keys() ^ theirs.keys()):
            raise RunError(
                f"{first.folder} ({len(ours):,} texts) and {other.folder} ({len(theirs):,}) were not evaluated on the "
                f"same texts: {len(missing):,} ids are in one only, such as {missing[0]!r}; evaluate both on one file."
            )
        mine, yours = ({key: (one.text, one.intents) for key, one in side.items()} for side in (ours, theirs))
        if differ := [key for key, one in mine.items() if one != yours[key]]:
            raise RunError(
                f"{first.folder} and {other.folder} differ in text or truth for {len(differ):,} ids, such as "
                f"{differ[0]!r}; evaluate both on one file."
            )


def _groups(contestants: Sequence[Contestant]) -> list[str]:
    """Scenario of each text. Files of earlier versions have none; any run's will do, as the texts are the same."""
    files = [answers for one in contestants for answers in one.answers]
    known = [next((one[key].scenario for one in files if one[key].scenario), None) for key in files[0]]
    if None in known:
        warn("the predictions do not say which texts share a scenario; each is taken by itself. Evaluate a run again.")
    return [group or key for group, key in zip(known, files[0], strict=True)]


def _counted(one: Contestant, reference: Mapping[str, Answer], groups: Sequence[str]) -> Counts:
    truth = np.array([[label in row.intents for label in one.labels] for row in reference.values()], dtype=np.int8)
    decided = []
    for answers, thresholds in zip(one.answers, one.thresholds, strict=True):
        values: Floats = np.array([answers[key].probabilities for key in reference], dtype=np.float64)
        decided.append(evaluate.decide(values, thresholds, one.task))
    return significance.count(truth, decided, groups)


def _write(comparison: Comparison, plain: Mapping[str, Any], folder: Path) -> list[Path]:
    from training import plots

    stream = io.StringIO()
    rows = [{**asdict(one), "real": one.real} for one in comparison.differences]
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files = [folder / f"comparison.{ending}" for ending in ("json", "csv", "md", "png")]
    write_json(files[0], plain)
    write_text(files[1], stream.getvalue())
    write_text(files[2], verdict.markdown(comparison))
    plots.draw_comparison(comparison, files[3])
    return files
