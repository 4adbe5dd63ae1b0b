"""Country bias: how often does the answer change when only the states change?

Two views of the same question, over the test texts that name a state. All states of a text are swapped at random: the
labels must stay (the invariance test of Ribeiro et al. 2020, "Beyond Accuracy"). Every state in turn takes the place
of one: none may move a label's mean probability (the score sensitivity of Prabhakaran, Hutchinson and Mitchell 2019,
"Perturbation Sensitivity Analysis to Detect Unintended Model Biases", against the mean over all states).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from training import actors, calibrate, evaluate, run
from training import corpus as corpora
from training.console import say
from training.errors import CorpusError
from training.evaluation import keep
from training.files import write_json
from training.train import restore

AIM_UNCHANGED = 0.99  # at least this share of swaps leaves the labels as they were
AIM_SHIFT = 0.02  # no state moves a label's mean probability further
SWAPS = 5  # random swaps a text
SHOWN = 10  # largest shifts in the report
EXAMPLES = 50  # changed answers kept with the run
PIECE = 512  # texts between two moves of the progress bar

Floats = npt.NDArray[np.float64]
Predict = Callable[[Sequence[str]], Floats]  # texts -> calibrated probabilities (texts, labels)


@dataclass(frozen=True)
class Change:
    """One answer that changed with the states: a text, its labels, the text with other states, and its labels."""

    text: str
    labels: tuple[str, ...]
    variant: str
    variant_labels: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        labels: their names.
        texts: how many name a state; each was swapped `SWAPS` times.
        unchanged: share of the swaps after which all labels were as before.
        unchanged_by_label: share of the swaps after which this one was as before.
        changes: the first `EXAMPLES` answers that changed.
        sampled: how many texts every state was tried in.
        means: (labels), mean probability over those texts and all states.
        shifts: by a state's code, (labels): its mean probability minus `means`.
    """

    labels: tuple[str, ...]
    texts: int
    unchanged: float
    unchanged_by_label: Mapping[str, float]
    changes: tuple[Change, ...]
    sampled: int
    means: Floats
    shifts: Mapping[str, Floats]


def measure(
    texts: Sequence[str],
    predict: Predict,
    thresholds: Sequence[float],
    *,
    labels: Sequence[str],
    task: str,
    sample: int = 120,
    seed: int = 0,
) -> Report:
    """Swaps the states of texts and compares the answers.

    Args:
        texts: at least one, each naming a state.
        predict: gives their calibrated probabilities.
        thresholds: one a label; unused for single-label.
        labels: their names.
        task: "multi_label" or "single_label".
        sample: texts in which every state is tried; all where there are fewer.
        seed: of the swaps and the sample.
    """
    swapped = _predicted(predict, _each_swapped(texts, seed), len(texts) * (1 + SWAPS), "random swaps")
    decided = evaluate.decide(swapped, thresholds, task).reshape(len(texts), 1 + SWAPS, len(labels))
    same = decided[:, 1:] == decided[:, :1]  # (texts, swaps, labels)

    def chosen(place: int, version: int) -> tuple[str, ...]:
        return tuple(np.asarray(labels)[decided[place, version] > 0].tolist())

    changes = tuple(
        Change(texts[i], chosen(i, 0), _random_swap(texts[i], number, seed), chosen(i, 1 + number))
        for i, number in np.argwhere(~same.all(axis=2))[:EXAMPLES]
    )

    sampled = Random(seed).sample(list(texts), min(sample, len(texts)))
    codes = list(actors.gazetteer())
    values = _predicted(predict, _each_in_turn(sampled, codes), len(sampled) * len(codes), "every state")
    by_state = values.reshape(len(sampled), len(codes), len(labels)).mean(axis=0)
    means = by_state.mean(axis=0)
    return Report(
        labels=tuple(labels),
        texts=len(texts),
        unchanged=float(same.all(axis=2).mean()),
        unchanged_by_label=dict(zip(labels, same.mean(axis=(0, 1)).tolist(), strict=True)),
        changes=changes,
        sampled=len(sampled),
        means=means,
        shifts=dict(zip(codes, by_state - means, strict=True)),
    )


def figures(report: Report) -> dict[str, float]:
    """`bias/unchanged`, `bias/largest_shift` and `bias/largest_shift_X` a label; shifts without their sign."""
    furthest = np.abs(list(report.shifts.values())).max(axis=0)
    return {
        "bias/unchanged": report.unchanged,
        "bias/largest_shift": float(furthest.max()),
        **{f"bias/largest_shift_{label}": float(furthest[i]) for i, label in enumerate(report.labels)},
    }


def ranked(report: Report) -> list[tuple[str, str, float]]:
    """Every state's code, label and shift, the furthest from 0 first."""
    found = [
        (code, label, float(shift))
        for code, shifts in report.shifts.items()
        for label, shift in zip(report.labels, shifts, strict=True)
    ]
    return sorted(found, key=lambda one: -abs(one[2]))


def run_on(target: str, sample: int) -> tuple[Report, dict[str, Any]]:
    """Measures the run `target` on its corpus' test split.

    Returns:
        The report, and what of it was written into the run's `predictions/bias.json`. The figures are also added to
        its metrics.json and to MLflow.

    Raises:
        RunError, CorpusError: the run or its corpus is not fit for it.
    """
    folder = run.find_one(target)
    fitted, calibration, settings = restore(folder)
    record = run.finished(folder) or {}
    labels, task = tuple(record["labels"]), record["task"]

    def predict(texts: Sequence[str]) -> Floats:
        return calibrate.probabilities(fitted.logits(texts), calibration.temperature, task)

    texts = corpora.load(settings.corpus).test.texts
    named = [text for text in texts if actors.find(text)]
    if not named:
        raise CorpusError(
            f"{Path(settings.corpus) / 'test.jsonl'}: none of its {len(texts)} texts names a state of "
            f"{actors.GAZETTEER}; the report needs texts whose states can be swapped."
        )
    report = measure(named, predict, calibration.thresholds, labels=labels, task=task, sample=sample)
    found, written = figures(report), _plain(report)
    write_json(folder / "predictions" / "bias.json", written)
    keep(folder, found)
    return report, written


def command(target: str, sample: int, *, as_json: bool) -> int:
    """The `bias` command."""
    report, written = run_on(target, sample)
    say(json.dumps(written, indent=2, ensure_ascii=False) if as_json else table(report))
    return 0


def table(report: Report) -> str:
    """The report for people."""
    states, shifts = actors.gazetteer(), ranked(report)
    lines = [f"{'test ':·<16}unchanged  largest shift"]
    for label in report.labels:
        code, _, shift = next(one for one in shifts if one[1] == label)
        share = report.unchanged_by_label[label]
        lines.append(f"{label:<16}{share:>9.4f}  {shift:+.4f} {states[code].written('name')}")
    furthest = abs(shifts[0][2])
    lines += [
        f"unchanged {report.unchanged:.4f} ({SWAPS} swaps in each of {report.texts} texts), "
        f"aim {AIM_UNCHANGED:.0%}: {_verdict(report.unchanged >= AIM_UNCHANGED)}",
        f"largest shift {furthest:.4f}, aim no more than {AIM_SHIFT}: {_verdict(furthest <= AIM_SHIFT)}",
        f"largest shifts (mean probability with this state less that over all {len(states)}; {report.sampled} texts):",
    ]
    lines += [f"  {shift:+.4f}  {label:<16}{states[code].written('name')}" for code, label, shift in shifts[:SHOWN]]
    return "\n".join(lines)


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _random_swap(text: str, number: int, seed: int) -> str:
    # The seed hangs on this text alone: others may come and go.
    return actors.random_swap(text, Random(f"{seed} {number} {text}"))


def _each_swapped(texts: Sequence[str], seed: int) -> Iterator[str]:
    """Each text as it is, then with its states swapped `SWAPS` times."""
    for text in texts:
        yield text
        yield from (_random_swap(text, number, seed) for number in range(SWAPS))


def _each_in_turn(texts: Sequence[str], codes: Sequence[str]) -> Iterator[str]:
    """Each text with every state in the place of its first; where it names both, they change places and stay two."""
    for text in texts:
        first = actors.find(text)[0].code
        yield from (actors.swap(text, {code: first, first: code}) for code in codes)


def _predicted(predict: Predict, texts: Iterator[str], total: int, doing: str) -> Floats:
    """Probabilities (texts, labels) of texts that are made as they are needed, with progress."""
    found = []
    with tqdm(total=total, desc=doing, unit="text", disable=None, leave=False) as bar:
        while piece := list(islice(texts, PIECE)):
            found.append(predict(piece))
            bar.update(len(piece))
    return np.concatenate(found)


def _plain(report: Report) -> dict[str, Any]:
    def by_label(values: Floats) -> dict[str, float]:
        return {label: round(float(value), 6) for label, value in zip(report.labels, values, strict=True)}

    return {
        "aims": {"unchanged": AIM_UNCHANGED, "largest_shift": AIM_SHIFT},
        "figures": figures(report),
        "texts": report.texts,
        "swaps": SWAPS,
        "unchanged": dict(report.unchanged_by_label),
        "changes": [vars(change) for change in report.changes],
        "sampled": report.sampled,
        "means": by_label(report.means),
        "largest": [
            {"state": code, "label": label, "shift": round(shift, 6)} for code, label, shift in ranked(report)[:SHOWN]
        ],
        "shifts": {code: by_label(shifts) for code, shifts in report.shifts.items()},
    }
