"""Probabilities and truth to figures: no model, no tracker, no file.

Every figure is a plain float under a flat name, the same in `metrics.json` and in MLflow. Intervals are
95% percentile bootstrap intervals (Efron and Tibshirani 1993) that resample whole scenarios, because
sentences of one scenario are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, f1_score

from communique import classifier

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int8]

RESAMPLES = 2000
BINS = 10


def decide(probabilities: Floats, thresholds: Sequence[float], task: str) -> Ints:
    """Probabilities (texts, labels) to decisions of the same shape: reached thresholds, or the highest."""
    if task == "single_label":
        decided = np.zeros(probabilities.shape, dtype=np.int8)
        decided[np.arange(len(decided)), probabilities.argmax(axis=1)] = 1
        return decided
    return (probabilities >= np.asarray(thresholds)).astype(np.int8)


def confidence(probabilities: Floats, thresholds: Sequence[float], task: str) -> Floats:
    """How sure the decision on each text is, (texts): 0 where it could as well fall otherwise, 1 where it could not.

    Multi-label: a label's decision is as sure as its probability p is far from its threshold t, (p - t) / (1 - t) where
    it is reached and (t - p) / t where it is not; a text's is the least of them. Single-label: the highest probability
    less the second. It is `communique.Statement.confidence`.
    """
    return classifier.confidence(probabilities, np.asarray(thresholds, dtype=np.float64), task)


def figures(
    truth: Ints,
    probabilities: Floats,
    thresholds: Sequence[float],
    *,
    labels: Sequence[str],
    task: str,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """All figures of one evaluation.

    Args:
        truth: (texts, labels) of 0 and 1.
        probabilities: (texts, labels), calibrated.
        thresholds: one a label; unused for single-label.
        labels: their names.
        task: "multi_label" or "single_label".
        groups: scenario of each text, for the intervals; None for no intervals.
        seed: of the bootstrap.

    Returns:
        macro_f1 and micro_f1 over the labels; precision_X, recall_X, f1_X, ap_X (average precision) and
        support_X a label; macro_ap; exact_match; background_f1 (multi-label: "none" as a class of its
        own); ece (expected calibration error, mean over labels); with groups, NAME_low and NAME_high for
        macro_f1, exact_match and each f1_X. A label with no positive text has no ap.
    """
    decided = decide(probabilities, thresholds, task)
    # counted by hand: scikit-learn takes a corpus of one label for a binary task and scores both its classes
    hits, chosen, support = (truth & decided).sum(axis=0), decided.sum(axis=0), truth.sum(axis=0)
    precision, recall = hits / np.maximum(chosen, 1), hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(chosen + support, 1)
    result = {"macro_f1": float(f1.mean())}
    result["micro_f1"] = float(2 * hits.sum() / max(chosen.sum() + support.sum(), 1))
    result["exact_match"] = float((truth == decided).all(axis=1).mean())
    if task == "multi_label":
        none_true, none_decided = ~truth.any(axis=1), ~decided.any(axis=1)
        result["background_f1"] = float(f1_score(none_true, none_decided, zero_division=0.0))
    result["ece"] = expected_calibration_error(truth, probabilities)
    precisions = []
    for i, label in enumerate(labels):
        result[f"precision_{label}"] = float(precision[i])
        result[f"recall_{label}"] = float(recall[i])
        result[f"f1_{label}"] = float(f1[i])
        result[f"support_{label}"] = float(support[i])
        if truth[:, i].any():
            precisions.append(float(average_precision_score(truth[:, i], probabilities[:, i])))
            result[f"ap_{label}"] = precisions[-1]
    result["macro_ap"] = float(np.mean(precisions)) if precisions else 0.0
    if groups is not None:
        result |= intervals(truth, decided, groups, labels, seed)
    return result


def expected_calibration_error(truth: Ints, probabilities: Floats, bins: int = BINS) -> float:
    """Gap between probability and frequency, averaged over bins by size, then over labels (Naeini et al. 2015)."""
    errors = []
    for label in range(truth.shape[1]):
        places = np.minimum((probabilities[:, label] * bins).astype(int), bins - 1)
        sizes = np.bincount(places, minlength=bins)
        said = np.bincount(places, probabilities[:, label], bins)
        found = np.bincount(places, truth[:, label], bins)
        errors.append(float(np.abs(said - found).sum() / max(sizes.sum(), 1)))
    return float(np.mean(errors))


def by_group(values: npt.NDArray[Any], groups: Sequence[str]) -> Floats:
    """Sums of `values` (texts, …) over the texts of each group: (groups, …), the groups in their names' order."""
    names, places = np.unique(np.asarray(groups), return_inverse=True)
    totals = np.zeros((len(names), *values.shape[1:]))
    np.add.at(totals, places, values)
    return totals


def intervals(
    truth: Ints, decided: Ints, groups: Sequence[str], labels: Sequence[str], seed: int = 0
) -> dict[str, float]:
    """NAME_low and NAME_high of macro_f1, exact_match and each f1_X, resampled by group; arguments as in `figures`."""

    def totals(values: npt.NDArray[np.bool_]) -> Floats:
        return by_group(values, groups)

    hits, chosen, real = totals((truth & decided) > 0), totals(decided > 0), totals(truth > 0)
    exact, sizes = totals((truth == decided).all(axis=1)), totals(np.ones(len(truth), dtype=bool))
    count = len(sizes)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    f1 = 2 * (draws @ hits) / np.maximum(draws @ chosen + draws @ real, 1e-9)
    samples = {"macro_f1": f1.mean(axis=1), "exact_match": (draws @ exact) / np.maximum(draws @ sizes, 1)}
    samples |= {f"f1_{label}": f1[:, i] for i, label in enumerate(labels)}
    result: dict[str, float] = {}
    for name, values in samples.items():
        low, high = np.percentile(values, [2.5, 97.5])
        result |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return result
