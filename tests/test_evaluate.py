"""Figures against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score

from training import calibrate, evaluate

LABELS = ("a", "b", "c")


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    truth = (random.random((300, 3)) < [0.4, 0.2, 0.05]).astype(np.int8)
    return truth, truth * 0.3 + random.random((300, 3)) * 0.7


def test_figures_agree_with_scikit_learn(sample: tuple[np.ndarray, np.ndarray]) -> None:
    truth, probabilities = sample
    found = evaluate.figures(truth, probabilities, (0.5, 0.6, 0.4), labels=LABELS, task="multi_label")
    decided = probabilities >= [0.5, 0.6, 0.4]
    assert found["macro_f1"] == pytest.approx(f1_score(truth, decided, average="macro"))
    assert found["f1_b"] == pytest.approx(f1_score(truth[:, 1], decided[:, 1]))
    assert found["background_f1"] == pytest.approx(f1_score(~truth.any(axis=1), ~decided.any(axis=1)))
    assert found["exact_match"] == pytest.approx((truth == decided).all(axis=1).mean())
    assert found["micro_f1"] == pytest.approx(f1_score(truth, decided, average="micro"))
    assert found["precision_c"] == pytest.approx(precision_score(truth[:, 2], decided[:, 2]))
    assert found["support_a"] == truth[:, 0].sum()


def test_by_hand() -> None:
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]], dtype=np.int8)
    probabilities = np.array([[0.9, 0.1, 0], [0.2, 0.4, 0], [0.6, 0, 0], [0.8, 0.9, 0]])
    found = evaluate.figures(truth, probabilities, (0.5, 0.5, 0.5), labels=LABELS, task="multi_label")
    assert found["precision_a"] == pytest.approx(2 / 3)
    assert found["recall_b"] == pytest.approx(1 / 2)
    assert found["exact_match"] == pytest.approx(2 / 4)
    assert found["background_f1"] == 0.0
    assert "ap_c" not in found and found["f1_c"] == 0.0


def test_a_corpus_of_one_label_is_scored_on_it() -> None:
    truth = np.array([[1], [0], [0], [1]], dtype=np.int8)
    found = evaluate.figures(truth, np.array([[0.9], [0.1], [0.2], [0.3]]), (0.5,), labels=("a",), task="multi_label")
    assert (found["precision_a"], found["recall_a"]) == (1.0, 0.5)


def test_calibration_error_by_hand() -> None:
    truth = np.array([[1], [0], [1], [1]], dtype=np.int8)
    probabilities = np.array([[0.75], [0.75], [0.25], [0.95]])
    # bins: {0.75, 0.75} says 0.75 finds 0.5; {0.25} says 0.25 finds 1; {0.95} says 0.95 finds 1
    assert evaluate.expected_calibration_error(truth, probabilities) == pytest.approx((0.5 + 0.75 + 0.05) / 4)


def test_intervals_hold_the_figure_and_widen_with_fewer_groups(sample: tuple[np.ndarray, np.ndarray]) -> None:
    truth, probabilities = sample
    widths = []
    for size in (1, 30):
        groups = [str(i // size) for i in range(len(truth))]
        found = evaluate.figures(truth, probabilities, (0.5,) * 3, labels=LABELS, task="multi_label", groups=groups)
        assert found["macro_f1_low"] < found["macro_f1"] < found["macro_f1_high"]
        widths.append(found["macro_f1_high"] - found["macro_f1_low"])
    alike = evaluate.figures(truth, probabilities, (0.5,) * 3, labels=LABELS, task="multi_label", groups=["x"] * 300)
    assert alike["macro_f1_low"] == pytest.approx(alike["macro_f1_high"])


def test_confidence_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.5, 0.2], [0.75, 0.4], [1.0, 0.0]])
    # 0.9 is 4/5 of the way from 0.5 to 1, 0.1 is 3/4 of the way from 0.4 to 0; a probability on its threshold is unsure
    found = evaluate.confidence(probabilities, (0.5, 0.4), "multi_label")
    assert found == pytest.approx([0.75, 0.0, 0.0, 1.0])
    assert evaluate.confidence(probabilities, (), "single_label") == pytest.approx([0.8, 0.3, 0.35, 1.0])
    assert evaluate.confidence(probabilities[:, :1], (), "single_label") == pytest.approx([0.9, 0.5, 0.75, 1.0])


def test_single_label_takes_the_highest() -> None:
    truth = np.array([[1, 0], [0, 1]], dtype=np.int8)
    found = evaluate.figures(truth, np.array([[0.4, 0.3], [0.1, 0.2]]), (), labels=("x", "y"), task="single_label")
    assert found["macro_f1"] == 1.0 and "background_f1" not in found


def test_temperature_mends_overconfidence() -> None:
    random = np.random.default_rng(0)
    honest = random.normal(0, 2, (4000, 2))
    truth = (random.random((4000, 2)) < 1 / (1 + np.exp(-honest))).astype(np.int8)
    found = calibrate.fit(honest * 3, truth, "multi_label")
    assert found.temperature == pytest.approx(3, rel=0.1)


def test_thresholds_find_the_best_f1_of_a_rare_label() -> None:
    random = np.random.default_rng(1)
    truth = (random.random((5000, 1)) < 0.05).astype(np.int8)
    logits = random.normal(0, 1, (5000, 1)) + truth * 3 - 4
    found = calibrate.fit(logits, truth, "multi_label")
    values = calibrate.probabilities(logits, found.temperature, "multi_label")
    best = max(f1_score(truth, values >= t) for t in calibrate.GRID)
    assert f1_score(truth, values >= found.thresholds[0]) > best - 0.02


def test_shifts_bring_probabilities_to_the_frequencies_of_validation() -> None:
    random = np.random.default_rng(5)
    logits = random.normal(0, 2, (4000, 2))
    truth = (random.random((4000, 2)) < 1 / (1 + np.exp(-(logits - [1.5, 0.0])))).astype(np.int8)
    shifts = calibrate.shifts(logits, truth, "multi_label")
    assert shifts == pytest.approx([-1.5, 0.0], abs=0.2)
    before = calibrate.probabilities(logits, 1.0, "multi_label").mean(axis=0)
    after = calibrate.probabilities(logits + shifts, 1.0, "multi_label").mean(axis=0)
    assert abs(before - truth.mean(axis=0))[0] > 0.1
    assert abs(after - truth.mean(axis=0)).max() < 0.01


def test_few_texts_shift_little() -> None:
    never = np.zeros((3, 1), dtype=np.int8)
    assert -3 < calibrate.shifts(np.zeros((3, 1)), never, "multi_label")[0] < 0, "by frequency alone it is endless"


def test_shifts_of_a_single_label_task() -> None:
    random = np.random.default_rng(6)
    truth = np.eye(3, dtype=np.int8)[random.choice(3, 900, p=[0.8, 0.1, 0.1])]
    shifts = calibrate.shifts(np.zeros((900, 3)), truth, "single_label")
    assert calibrate.probabilities(shifts[None], 1.0, "single_label")[0] == pytest.approx([0.8, 0.1, 0.1], abs=0.06)
