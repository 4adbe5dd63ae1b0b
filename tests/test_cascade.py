"""The choice of a cascade's bound, in benchmarks/."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def cascade(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("cascade")


def _macro_f1(truth: np.ndarray, decided: np.ndarray) -> float:
    hits, sizes = (truth & decided).sum(axis=0), truth.sum(axis=0) + decided.sum(axis=0)
    return float((2 * hits / np.maximum(sizes, 1)).mean())


@pytest.mark.parametrize("limit", [0.0, 0.003, 0.05, 1.0])
def test_the_bound_lets_the_first_stage_answer_most_texts_within_the_limit(cascade: ModuleType, limit: float) -> None:
    random = np.random.default_rng(1)
    truth, first, second = (random.integers(0, 2, (200, 3)).astype(np.int8) for _ in range(3))
    second[:150] = truth[:150]
    sureness = random.integers(0, 60, 200) / 60  # texts share values
    first = np.where((random.random(200) < sureness)[:, None], truth, first)
    bound = cascade.choose(sureness, first, second, truth, limit)

    def lost(candidate: float) -> float:
        both = np.where((sureness >= candidate)[:, None], first, second)
        return _macro_f1(truth, second) - _macro_f1(truth, both)

    assert lost(bound) <= limit + 1e-9
    assert all(lost(lower) > limit for lower in set(sureness[sureness < bound]))


def test_texts_of_one_sureness_are_answered_together_or_not_at_all(cascade: ModuleType) -> None:
    truth = np.array([[0], [0], [1], [1]], dtype=np.int8)
    empty = np.zeros((4, 1), dtype=np.int8)
    assert cascade.choose(np.array([0.9, 0.8, 0.8, 0.1]), empty, truth, truth, 0.0) == 0.9
    assert cascade.choose(np.array([0.8, 0.8, 0.8, 0.1]), empty, truth, truth, 0.0) == np.inf


def test_what_is_surely_empty_and_what_is_surely_not(cascade: ModuleType) -> None:
    values = np.array([[0.01, 0.02], [0.99, 0.02], [0.5, 0.4]])
    sureness, said = cascade.background(values)
    assert sureness.tolist() == pytest.approx([0.98, 0.01, 0.5]) and not said.any()
    sureness, said = cascade.whatever((0.5, 0.5))(values)
    assert sureness.tolist() == pytest.approx([0.96, 0.96, 0.0]) and said.tolist() == [[0, 0], [1, 0], [1, 0]]
