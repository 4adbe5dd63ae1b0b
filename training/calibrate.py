"""Shifts, temperature and thresholds, fitted on validation and on nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int8]

GRID = np.round(np.arange(0.05, 0.951, 0.01), 2)
TEMPERATURES = (float(np.log(0.1)), float(np.log(10)))  # as logarithms
SHIFT_PRIOR = 2.0  # standard deviation, in log odds
REACH = 0.04  # thresholds are judged by the mean F1 of their neighbourhood: a lone peak is luck


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities and decisions.

    Attributes:
        temperature: logits are divided by it (Guo et al. 2017, "On Calibration of Modern Neural Networks").
        thresholds: one a label; 0.5 each for single-label, where they are not used.
    """

    temperature: float
    thresholds: tuple[float, ...]


def fit(logits: Floats, truth: Ints, task: str) -> Calibration:
    """Finds the temperature of least log loss, then each label's threshold of best F1."""
    temperature = _temperature(logits, truth, task)
    if task == "single_label":
        return Calibration(temperature, (0.5,) * truth.shape[1])
    values = probabilities(logits, temperature, task)
    return Calibration(temperature, tuple(_threshold(values[:, i], truth[:, i]) for i in range(truth.shape[1])))


def shifts(logits: Floats, truth: Ints, task: str) -> Floats:
    """What to add to each label's logit so that, at the best temperature, probabilities meet frequencies.

    Bias-corrected temperature scaling (Alexandari et al. 2020): train may be richer in a label than life, and some
    losses raise all odds. A normal prior keeps labels with few texts from moving far.
    """

    labels = truth.shape[1]

    def loss(values: Floats) -> float:
        scaled = np.asarray(logits, dtype=np.float64) / np.exp(values[0]) + values[1:]
        return _log_loss(scaled, truth, task) + float((values[1:] ** 2).sum()) / (2 * SHIFT_PRIOR**2)

    found = minimize(loss, np.zeros(labels + 1), method="L-BFGS-B", bounds=[TEMPERATURES] + [(None, None)] * labels)
    return np.asarray(found.x[1:] * np.exp(found.x[0]), dtype=np.float64)


def probabilities(logits: Floats, temperature: float, task: str) -> Floats:
    """Calibrated probabilities (texts, labels): sigmoid a label, or softmax over the labels."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return np.asarray(softmax(scaled, axis=1) if task == "single_label" else expit(scaled), dtype=np.float64)


def _temperature(logits: Floats, truth: Ints, task: str) -> float:
    def loss(log_temperature: float) -> float:
        return _log_loss(np.asarray(logits, dtype=np.float64) / np.exp(log_temperature), truth, task)

    return float(np.exp(minimize_scalar(loss, bounds=TEMPERATURES, method="bounded").x))


def _log_loss(scaled: Floats, truth: Ints, task: str) -> float:
    if task == "single_label":
        return float(-(truth * log_softmax(scaled, axis=1)).sum())
    return float(-(truth * log_expit(scaled) + (1 - truth) * log_expit(-scaled)).sum())


def _threshold(values: Floats, truth: Ints) -> float:
    chosen = values[:, None] >= GRID
    hits = (chosen & (truth[:, None] > 0)).sum(axis=0)
    f1 = 2 * hits / np.maximum(chosen.sum(axis=0) + truth.sum(), 1)
    near = np.abs(GRID[:, None] - GRID) <= REACH
    smooth = (near * f1).sum(axis=1) / near.sum(axis=1)
    best = np.flatnonzero(smooth >= smooth.max() - 1e-12)
    return float(GRID[best[len(best) // 2]])
