"""Slices, worst errors, confusion and coverage, by hand."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest

from training import analysis
from training.analysis import Confusion, Predictions

LABELS = ("a", "b")


def predictions(*rows: tuple[list[str], list[float]], task: str = "multi_label", **fields: list[Any]) -> Predictions:
    """Each row is its labels and its probabilities; thresholds are one half."""
    records = [
        {"id": f"t{i}", "scenario": f"s{i}", "text": f"text {i}", "intents": intents, "probabilities": values}
        | {field: several[i] for field, several in fields.items() if several[i] is not None}
        for i, (intents, values) in enumerate(rows)
    ]
    truth = np.array([[label in intents for label in LABELS] for intents, _ in rows], dtype=np.int8)
    probabilities = np.array([values for _, values in rows])
    return Predictions("test", tuple(records), truth, probabilities, LABELS, task, (0.5, 0.5))


HIT, MISS, FALSE, NONE = (["a"], [0.9, 0.1]), (["a"], [0.2, 0.1]), ([], [0.8, 0.1]), ([], [0.1, 0.3])


def test_slices_by_hand() -> None:
    found = predictions(
        *[HIT] * 6, *[MISS] * 2, FALSE, *[NONE] * 4,
        register=["news"] * 5 + ["speech"] * 8,
        rules=[None] * 6 + [[4, 9]] * 7,
        source=[f"page {i}" for i in range(13)],
        labels_first=[["a"], ["b"]] * 6 + [["a"]],
    )  # fmt: skip
    by_name = {(one.field, one.value): one for one in analysis.slices(found)}
    # a: 6 hits, 7 called, 8 are so; b never is so, so it does not count
    assert by_name["all", "all"].macro_f1 == pytest.approx(2 * 6 / (7 + 8))
    assert by_name["all", "all"].f1 == {"a": pytest.approx(12 / 15), "b": None}
    assert by_name["all", "all"].exact_match == pytest.approx(10 / 13)
    assert by_name["register", "news"].macro_f1 == 1.0 and by_name["register", "news"].texts == 5
    # one hit and two misses: a stands in three texts of it, too few for an F1
    assert by_name["register", "speech"].macro_f1 is None
    assert by_name["register", "speech"].exact_match == pytest.approx(5 / 8)
    assert (by_name["intents", "0"].texts, by_name["intents", "1"].texts) == (5, 8)
    assert by_name["rules", "4"].texts == by_name["rules", "9"].texts == 7, "a list puts a text into several slices"
    assert {field for field, _ in by_name} == {"all", "intents", "register", "rules"}, (
        "what tells texts apart one by one, and what the annotators said, is no slice"
    )
    assert all(one.macro_f1_low is None for one in by_name.values()), "thirteen texts have no interval"


def test_large_slices_have_an_interval_and_old_files_without_scenarios_have_none() -> None:
    found = predictions(*[HIT, MISS, NONE] * 30)
    (whole, *_) = analysis.slices(found)
    assert whole.macro_f1 == pytest.approx(2 / 3)
    assert whole.macro_f1_low is not None and whole.macro_f1_high is not None
    assert 0.5 < whole.macro_f1_low < 2 / 3 < whole.macro_f1_high < 0.8
    rows = tuple({key: value for key, value in row.items() if key != "scenario"} for row in found.rows)
    old = Predictions("test", rows, found.truth, found.probabilities, LABELS, found.task, found.thresholds)
    assert analysis.slices(old)[0].macro_f1_low is None


def test_bands_are_in_order_and_cover_every_length() -> None:
    found = predictions(*[NONE] * 30)
    texts = ["one", *["word " * 10] * 9, *["word " * 11] * 10, *["word " * 500] * 10]
    rows = tuple({**row, "text": text} for row, text in zip(found.rows, texts, strict=True))
    long = Predictions("test", rows, found.truth, found.probabilities, LABELS, found.task, found.thresholds)
    bands = [(one.value, one.texts) for one in analysis.slices(long) if one.field == "words"]
    assert bands == [("1 to 10", 10), ("11 to 20", 10), ("over 160", 10)]


def test_worst_errors_come_first() -> None:
    found = predictions(HIT, (["b"], [0.99, 0.1]), (["a"], [0.1, 0.1]), FALSE, kind=["x", "y", "x", "y"])
    first, *others = analysis.mistakes(found)
    assert [first.id, *(one.id for one in others)] == ["t1", "t2", "t3"]
    assert first.loss == pytest.approx(-np.log(0.01) - np.log(0.1), abs=1e-4)
    assert (first.truth, first.decided, first.fields) == (("b",), ("a",), {"kind": "y"})
    assert others[0].loss == pytest.approx(-np.log(0.1), abs=1e-4), "labels decided rightly do not count"
    assert len(analysis.mistakes(found, worst=2)) == 2


def test_confusion_pairs_what_is_missed_with_what_is_called() -> None:
    found = predictions((["b"], [0.9, 0.1]), (["b"], [0.8, 0.2]), MISS, FALSE, HIT, NONE)
    assert analysis.confusion(found) == (Confusion("b", "a", 2), Confusion("a", None, 1), Confusion(None, "a", 1))


def test_coverage_by_hand() -> None:
    # how sure: 0.8 (right), 0.6 (wrong), 0.4 (right), 0.2 (wrong)
    found = predictions((["a"], [0.9, 0.0]), ([], [0.8, 0.0]), (["a"], [0.7, 0.0]), ([], [0.6, 0.0]))
    points = {point.texts: point for point in analysis.coverage(found)}
    assert sorted(points) == [1, 2, 3, 4]
    assert [points[n].exact_match for n in (1, 2, 3, 4)] == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert [points[n].macro_f1 for n in (1, 2, 3, 4)] == pytest.approx([1, 2 / 3, 4 / 5, 2 / 3])
    assert [points[n].labelled for n in (1, 2, 3, 4)] == [1, 1, 2, 2]
    for point in points.values():
        assert (found.confidence >= point.min_confidence).sum() == point.texts, "the threshold gives what it says"
        assert point.answered == point.texts / 4
    assert points[4].min_confidence == 0 and points[2].min_confidence == pytest.approx(0.6, abs=1e-4)


def test_texts_as_sure_as_the_last_are_answered_too() -> None:
    assert [point.texts for point in analysis.coverage(predictions(*[HIT] * 7))] == [7]


def test_single_label_goes_by_the_highest() -> None:
    found = predictions((["a"], [0.6, 0.4]), (["b"], [0.9, 0.1]), task="single_label")
    assert analysis.confusion(found) == (Confusion("b", "a", 1),)
    (mistake,) = analysis.mistakes(found)
    assert mistake.loss == pytest.approx(-np.log(0.1), abs=1e-4)
    assert [point.texts for point in analysis.coverage(found)] == [2, 1]
    assert analysis.coverage(found)[-1].exact_match == 0.0, "the surest of the two is wrong"


@pytest.mark.parametrize("text", ['=HYPERLINK("x")', "+1", "-1", "@SUM(A1)", " =1+1", "\t=1", "＝1"])
def test_a_spreadsheet_runs_nothing(text: str) -> None:
    found = predictions(MISS, MISS, kind=["=kind", "=kind"])
    rows = tuple({**row, "text": text} for row in found.rows)
    evil = Predictions("test", rows, found.truth, found.probabilities, LABELS, found.task, found.thresholds)
    head, *records = csv.reader(io.StringIO(analysis.table(analysis.mistakes(evil))))
    assert head[:5] == ["id", "text", "truth", "decided", "loss"] and len(records) == 2
    for record in records:
        assert record[head.index("text")] == f"'{text}"
        assert float(record[head.index("p_a")]) == 0.2
