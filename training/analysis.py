"""Where a run goes wrong: slices, worst errors, confused intents, and what it is worth when it may abstain.

All of it is worked out from a run's `predictions/` and `calibration.json` alone, so that it can be done again for an
old run, or on a machine that has neither its corpus nor its weights.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from communique.render import csv_lines
from training import evaluate
from training.files import write_json, write_text

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int8]

WORST = 50  # errors kept
BANDS = (10, 20, 30, 40, 80, 160)  # upper ends of the slices by length, in words
MAX_VALUES = 40  # a field with more values is a name or a date, not a slice
FEWEST = 5  # texts under which a slice, or a label in a slice, says nothing
MIN_TEXTS, MIN_GROUPS = 50, 20  # smaller slices get no interval
SHARES = tuple(share / 100 for share in range(100, 0, -5))  # points of the coverage curve
_KNOWN = ("id", "scenario", "text", "intents", "probabilities")  # what every row of predictions has
_NO_SLICE = (*_KNOWN, "document", "position", "labels_first", "labels_second")
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class Predictions:
    """One evaluated file of a run.

    Attributes:
        name: its file's stem in `predictions/`: "test", "validation", or what an outside file was called.
        rows: as they lie there.
        truth: int8 array (texts, labels) of 0 and 1.
        probabilities: float array (texts, labels), calibrated.
        labels: their names.
        task: "multi_label" or "single_label".
        thresholds: one a label; unused for single-label.
    """

    name: str
    rows: tuple[Mapping[str, Any], ...]
    truth: Ints
    probabilities: Floats
    labels: tuple[str, ...]
    task: str
    thresholds: tuple[float, ...]

    @property
    def decided(self) -> Ints:
        """Decisions (texts, labels) of 0 and 1."""
        return evaluate.decide(self.probabilities, self.thresholds, self.task)

    @property
    def confidence(self) -> Floats:
        """How sure each decision is, (texts)."""
        return evaluate.confidence(self.probabilities, self.thresholds, self.task)

    @property
    def groups(self) -> list[str] | None:
        """What each text is resampled with; None for files of older runs, which do not say."""
        groups = [row.get("scenario") for row in self.rows]
        return None if None in groups else [str(group) for group in groups]


@dataclass(frozen=True)
class Slice:
    """Figures of the texts that are alike in something.

    Attributes:
        field, value: in what: "register" and "speech", "words" and "11 to 20", "intents" and "2".
        texts: how many.
        macro_f1: over the labels that stand in `FEWEST` of these texts or more; None where none does.
        macro_f1_low, macro_f1_high: its 95% interval, resampled by scenario; None in small slices.
        f1: by label; None where it stands in fewer.
        exact_match: share of the texts with exactly the right labels.
    """

    field: str
    value: str
    texts: int
    macro_f1: float | None
    macro_f1_low: float | None
    macro_f1_high: float | None
    f1: Mapping[str, float | None]
    exact_match: float


@dataclass(frozen=True)
class Mistake:
    """One text with at least one wrong decision.

    Attributes:
        id, text: which and what it says.
        truth, decided: its labels as they are and as called.
        probabilities: by label, calibrated.
        loss: log loss of the wrong decisions; single-label: of the true label.
        fields: what its row says besides, such as register and kind.
    """

    id: str
    text: str
    truth: tuple[str, ...]
    decided: tuple[str, ...]
    probabilities: Mapping[str, float]
    loss: float
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Confusion:
    """How many texts miss one label and call another; None for "nothing missed" and "nothing called"."""

    missed: str | None
    called: str | None
    texts: int


@dataclass(frozen=True)
class Point:
    """What remains when only statements of at least `min_confidence` are answered.

    Attributes:
        min_confidence: as in `communique.load(min_confidence=…)`.
        answered: share of the texts.
        texts: their number.
        labelled: how many of them have a label; few, where the model is surest of background.
        macro_f1: over the labels that occur in them; None where none does.
        exact_match: share of them with exactly the right labels.
    """

    min_confidence: float
    answered: float
    texts: int
    labelled: int
    macro_f1: float | None
    exact_match: float


@dataclass(frozen=True)
class Analysis:
    """All of it for one evaluated file; the first slice is the whole of it."""

    name: str
    slices: tuple[Slice, ...]
    mistakes: tuple[Mistake, ...]
    wrong: int
    confusion: tuple[Confusion, ...]
    coverage: tuple[Point, ...]


def names(folder: Path) -> list[str]:
    """The evaluated files that a run's folder has predictions of: test, outside files by name, validation."""
    found = {file.stem for file in (folder / "predictions").glob("*.jsonl")} - {"behaviour"}
    outside = sorted(found - {"test", "validation"})
    return [name for name in ("test", *outside, "validation") if name in found]


def read(folder: Path, name: str) -> Predictions:
    """The predictions `name` of the run in `folder`."""
    calibration = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    lines = (folder / "predictions" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    rows = tuple(json.loads(line) for line in lines if line)
    labels = tuple(calibration["labels"])
    truth = np.array([[label in row["intents"] for label in labels] for row in rows], dtype=np.int8)
    probabilities = np.array([row["probabilities"] for row in rows], dtype=np.float64)
    return Predictions(name, rows, truth, probabilities, labels, calibration["task"], tuple(calibration["thresholds"]))


def analyse(found: Predictions) -> Analysis:
    """Everything about one evaluated file."""
    wrong = int((found.truth != found.decided).any(axis=1).sum())
    return Analysis(found.name, slices(found), mistakes(found), wrong, confusion(found), coverage(found))


def write(folder: Path, result: Analysis) -> None:
    """Writes `analysis/NAME.json` and, with the worst errors as a table, `analysis/NAME-errors.csv`."""
    write_json(folder / "analysis" / f"{result.name}.json", asdict(result))
    write_text(folder / "analysis" / f"{result.name}-errors.csv", table(result.mistakes))


def slices(found: Predictions) -> tuple[Slice, ...]:
    """The whole, then the texts by length, by number of labels, and by every field of the rows that groups them."""
    everything = np.ones(len(found.rows), dtype=np.bool_)
    result = [_slice(found, "all", "all", everything)]
    counted: dict[str, list[tuple[str, ...]]] = {
        "words": [(_band(row["text"]),) for row in found.rows],
        "intents": [(str(len(row["intents"])),) for row in found.rows],
    }
    for field, values in {**counted, **_fields(found.rows)}.items():
        counts = Counter(value for several in values for value in several)
        ordered = sorted(counts, key=_natural) if field in counted else [value for value, _ in counts.most_common()]
        for value in [value for value in ordered if len(counts) > 1 and counts[value] >= FEWEST]:
            result.append(_slice(found, field, value, np.array([value in several for several in values])))
    return tuple(result)


def mistakes(found: Predictions, worst: int = WORST) -> tuple[Mistake, ...]:
    """The texts with the largest log loss on their wrongly decided labels, the worst first."""
    decided, fields = found.decided, _fields(found.rows)
    sure = np.clip(found.probabilities, 1e-6, 1 - 1e-6)
    counted = found.truth > decided if found.task == "single_label" else found.truth != decided
    losses = -(np.where(found.truth > 0, np.log(sure), np.log1p(-sure)) * counted).sum(axis=1)
    wrong = np.flatnonzero((found.truth != decided).any(axis=1))
    chosen = wrong[np.argsort(-losses[wrong], kind="stable")][:worst]
    return tuple(
        Mistake(
            id=str(found.rows[i]["id"]),
            text=found.rows[i]["text"],
            truth=_chosen(found.labels, found.truth[i]),
            decided=_chosen(found.labels, decided[i]),
            probabilities=dict(zip(found.labels, found.probabilities[i].tolist(), strict=True)),
            loss=round(float(losses[i]), 4),
            fields={field: ", ".join(values[i]) for field, values in fields.items() if values[i]},
        )
        for i in chosen
    )


def confusion(found: Predictions) -> tuple[Confusion, ...]:
    """Which missed label goes with which called one, the most frequent first.

    A text that misses one label and calls two counts for both pairs.
    """
    decided = found.decided
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for true, called in zip(found.truth, decided, strict=True):
        missing: Sequence[str | None] = _chosen(found.labels, (true > called).astype(np.int8))
        extra: Sequence[str | None] = _chosen(found.labels, (called > true).astype(np.int8))
        if missing or extra:
            counts.update((one, other) for one in missing or (None,) for other in extra or (None,))
    return tuple(Confusion(missed, called, texts) for (missed, called), texts in counts.most_common())


def coverage(found: Predictions) -> tuple[Point, ...]:
    """Figures over the surest 100%, 95%, … 5% of the texts; those as sure as the last one answered are answered too.

    After Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks".
    """
    confidence, decided = found.confidence, found.decided
    ordered = np.sort(confidence)[::-1]
    points: dict[int, Point] = {}
    for share in SHARES:
        last = float(ordered[max(int(np.ceil(share * len(ordered))), 1) - 1])
        least = np.floor(last * 1e4) / 1e4 if share < 1 else 0.0  # rounded down, so that as many reach it
        answered = confidence >= least
        texts = int(answered.sum())
        _, macro = _f1(found.truth[answered], decided[answered], 1)
        exact = float((found.truth == decided).all(axis=1)[answered].mean())
        labelled = int(found.truth[answered].any(axis=1).sum())
        points.setdefault(texts, Point(float(least), texts / len(ordered), texts, labelled, macro, exact))
    return tuple(points.values())


def table(found: Sequence[Mistake]) -> str:
    """Mistakes as CSV; a cell that a spreadsheet would take for a formula begins with an apostrophe."""
    labels = list(found[0].probabilities) if found else []
    fields = list(dict.fromkeys(field for one in found for field in one.fields))
    head = ["id", "text", "truth", "decided", "loss", *(f"p_{label}" for label in labels), *fields]
    rows = [[_cell(name) for name in head]]
    for one in found:
        words = [one.id, one.text, " ".join(one.truth), " ".join(one.decided)]
        rest = [one.fields.get(field, "") for field in fields]
        numbers = [f"{value:.4f}" for value in (one.loss, *one.probabilities.values())]
        rows.append([*map(_cell, words), *numbers, *map(_cell, rest)])
    return csv_lines(rows)


def _slice(found: Predictions, field: str, value: str, chosen: npt.NDArray[np.bool_]) -> Slice:
    truth, decided, groups = found.truth[chosen], found.decided[chosen], found.groups
    f1, macro = _f1(truth, decided, FEWEST)
    low, high = None, None
    if macro is not None and groups is not None and len(truth) >= MIN_TEXTS:
        own = [group for group, one in zip(groups, chosen, strict=True) if one]
        if len(set(own)) >= MIN_GROUPS:
            counted = np.array([value is not None for value in f1])
            bounds = evaluate.intervals(truth[:, counted], decided[:, counted], own, _chosen(found.labels, counted))
            low, high = bounds["macro_f1_low"], bounds["macro_f1_high"]
    by_label = dict(zip(found.labels, f1, strict=True))
    exact = float((truth == decided).all(axis=1).mean())
    return Slice(field, value, len(truth), macro, low, high, by_label, exact)


def _f1(truth: Ints, decided: Ints, fewest: int) -> tuple[list[float | None], float | None]:
    """F1 a label, and their mean; None for labels that stand in too few texts, which the mean leaves out."""
    hits, chosen, support = (truth & decided).sum(axis=0), decided.sum(axis=0), truth.sum(axis=0)
    f1 = 2 * hits / np.maximum(chosen + support, 1)
    known = support >= fewest
    values = [float(value) if yes else None for value, yes in zip(f1, known, strict=True)]
    return values, float(f1[known].mean()) if known.any() else None


def _fields(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, ...]]]:
    """By field that groups the rows, the values of each row: none, one, or several where the row has a list."""
    result = {}
    for field in dict.fromkeys(field for row in rows for field in row if field not in _NO_SLICE):
        values = [tuple(_values(row.get(field))) for row in rows]
        counts = Counter(value for several in values for value in several)
        if 2 <= len(counts) <= MAX_VALUES and max(counts.values()) > 1:
            result[field] = values
    return result


def _values(value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str | int) and str(one).strip():
            yield str(one)


def _band(text: str) -> str:
    words, start = len(text.split()), 1
    for end in BANDS:
        if words <= end:
            return f"{start} to {end}"
        start = end + 1
    return f"over {BANDS[-1]}"


def _natural(value: str) -> float:
    """Places "11 to 20" after "1 to 10" and "over 160" last."""
    first = value.split()[0]
    return float(first) if first.isdigit() else np.inf


def _chosen(labels: Sequence[str], row: npt.NDArray[Any]) -> tuple[str, ...]:
    return tuple(label for label, yes in zip(labels, row, strict=True) if yes)


def _cell(value: str) -> str:
    """The value as a spreadsheet shows and does not run it (OWASP, "CSV Injection")."""
    return f"'{value}" if value.lstrip().startswith(_FORMULA) or value[:1] in ("\t", "\r", "\n") else value
