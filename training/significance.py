"""Are the decisions of one contestant better than another's on the same texts? No file, no model, no run.

The test is the paired bootstrap (Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation";
Berg-Kirkpatrick, Burkett and Klein 2012, "An Empirical Investigation of Statistical Significance in NLP"): texts are
drawn anew, the same for all contestants, and the difference is counted again. Whole scenarios are drawn, because texts
of one scenario are not independent. Two-sided: the p-value is the share of draws whose difference is at least as far
from the one found as that is from 0, the draws thus recentred on no difference; the interval is the symmetric one of
the same distances, so that a p-value below 0.05 and an interval without 0 are one statement.

Approximate randomisation (Noreen 1989; Yeh 2000) was not taken: it swaps one answer for one answer, so that three seeds
cannot be set against one; it gives no interval; and it asks whether two contestants answer alike, not whether
they are equally good.

Only texts are drawn, never trainings: the question is whether these trained models differ on other texts of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluate import by_group

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int8]

MACRO = "macro-F1"
ALPHA = 0.05
ROUNDS = 10_000
MIN_SCENARIOS = 30  # the bootstrap over clusters claims too much with fewer (Cameron, Gelbach and Miller 2008)
_PIECE = 1_000  # draws at a time


@dataclass(frozen=True)
class Counts:
    """One contestant's decisions, counted; sums of them are all that F1 needs.

    Attributes:
        hits: (seeds, scenarios, labels), texts rightly given the label.
        chosen: (seeds, scenarios, labels), texts given the label.
        support: (scenarios, labels), texts that have the label.
    """

    hits: Floats
    chosen: Floats
    support: Floats

    def f1(self, weights: Floats) -> Floats:
        """Macro-F1, then F1 a label, each the mean over the seeds: (draws, 1 + labels).

        Args:
            weights: (draws, scenarios), how often each scenario was drawn.
        """
        sizes = np.maximum(weights @ self.chosen + weights @ self.support, 1)
        by_label = (2 * (weights @ self.hits) / sizes).mean(axis=0)
        return np.column_stack([by_label.mean(axis=1), by_label])

    def macro_f1_by_seed(self) -> Floats:
        """Macro-F1 of each seed on the texts as they are: (seeds)."""
        everything = np.ones((1, len(self.support)))
        one_by_one = zip(self.hits, self.chosen, strict=True)
        return np.array([Counts(h[None], c[None], self.support).f1(everything)[0, 0] for h, c in one_by_one])


def count(truth: Ints, decided: Sequence[Ints], groups: Sequence[str]) -> Counts:
    """Counts decisions by scenario.

    Args:
        truth: (texts, labels) of 0 and 1.
        decided: of the same shape, one for each seed.
        groups: scenario of each text.
    """
    hits = np.stack([by_group(truth & one, groups) for one in decided])
    return Counts(hits, np.stack([by_group(one, groups) for one in decided]), by_group(truth, groups))


@dataclass(frozen=True)
class Resampled:
    """What the bootstrap found.

    Attributes:
        found: (contestants, 1 + labels), macro-F1 and F1 a label of the texts as they are.
        drawn: (draws, contestants, 1 + labels), the same of every draw.
    """

    found: Floats
    drawn: Floats

    def interval(self, contestant: int) -> tuple[float, float]:
        """95% percentile interval of a contestant's macro-F1."""
        low, high = np.percentile(self.drawn[:, contestant, 0], [2.5, 97.5])
        return float(low), float(high)

    def differences(self, first: int, second: int) -> tuple[Floats, Floats, Floats]:
        """Of macro-F1 and F1 a label, `first` less `second`: the difference, half its 95% interval, the p-value."""
        difference = self.found[first] - self.found[second]
        distances = np.abs(self.drawn[:, first] - self.drawn[:, second] - difference)
        as_far = distances >= np.abs(difference) - 1e-12  # sums of floats: equal may be apart by rounding
        # the texts as they are count as a draw: no p-value is 0 (Davison and Hinkley 1997, chapter 4)
        return difference, np.quantile(distances, 0.95, axis=0), (1 + as_far.sum(axis=0)) / (1 + len(self.drawn))


def resample(contestants: Sequence[Counts], *, rounds: int = ROUNDS, seed: int = 0) -> Resampled:
    """Draws scenarios with replacement, the same for all contestants, and scores everyone on every draw."""
    scenarios = len(contestants[0].support)
    random, pieces = np.random.default_rng(seed), []
    for start in range(0, rounds, _PIECE):
        size = min(_PIECE, rounds - start)
        weights = random.multinomial(scenarios, np.full(scenarios, 1 / scenarios), size=size).astype(np.float64)
        pieces.append(np.stack([one.f1(weights) for one in contestants], axis=1))
    found = np.concatenate([one.f1(np.ones((1, scenarios))) for one in contestants])
    return Resampled(found, np.concatenate(pieces))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in the order given.

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in corrected]


@dataclass(frozen=True)
class Standing:
    """One line of a ranking.

    Attributes:
        name: the contestant's.
        seeds: how many; figures are means over them.
        macro_f1: with `low` and `high`, its 95% interval over texts.
        std: deviation of macro-F1 over the seeds; None for one.
        f1: by label.
    """

    name: str
    seeds: int
    macro_f1: float
    low: float
    high: float
    std: float | None
    f1: Mapping[str, float]


@dataclass(frozen=True)
class Difference:
    """One contestant against another in one measure.

    Attributes:
        first: stands higher in the ranking than `second`.
        second: the other.
        measure: "macro-F1", or a label for its F1.
        first_value: of `first`.
        second_value: of `second`.
        difference: the first value less the second; `low` and `high` bound it (95%, by itself).
        p: of the paired bootstrap, by itself.
        corrected: p after Holm over this many `comparisons`.
    """

    first: str
    second: str
    measure: str
    first_value: float
    second_value: float
    difference: float
    low: float
    high: float
    p: float
    corrected: float
    comparisons: int

    @property
    def real(self) -> bool:
        """Whether it is more than chance gives, with 5% risk over all comparisons together."""
        return self.corrected < ALPHA


@dataclass(frozen=True)
class Comparison:
    """A ranking by macro-F1, and the differences in it: of every pair, in macro-F1 and then in every label."""

    split: str
    texts: int
    scenarios: int
    ranking: tuple[Standing, ...]
    differences: tuple[Difference, ...]

    @property
    def against_leader(self) -> list[Difference]:
        """The differences between the first of the ranking and each other one."""
        return [one for one in self.differences if one.first == self.ranking[0].name]


def rank(contestants: Mapping[str, Counts], labels: Sequence[str], *, split: str, texts: int) -> Comparison:
    """Ranks contestants and tests every pair, in macro-F1 and in F1 a label.

    Two families are corrected, each over every pair: macro-F1, and all labels together. Every pair and not only those
    with the leader, because which one leads is read off the same texts.

    Args:
        contestants: at least two, counted on the same texts in the same scenarios, by name.
        labels: in the order of the counts.
        split: name of the texts.
        texts: how many there are.
    """
    names, counted = list(contestants), list(contestants.values())
    found = resample(counted)
    order = sorted(range(len(names)), key=lambda place: -found.found[place, 0])
    measures = (MACRO, *labels)
    tests: list[dict[str, Any]] = []
    for one, two in combinations(order, 2):
        difference, half, p = found.differences(one, two)
        tests += [
            {
                "first": names[one], "second": names[two], "measure": measure,
                "first_value": float(found.found[one, i]), "second_value": float(found.found[two, i]),
                "difference": float(difference[i]), "low": float(difference[i] - half[i]),
                "high": float(difference[i] + half[i]), "p": float(p[i]),
            }
            for i, measure in enumerate(measures)
        ]  # fmt: skip
    for family in ([test for test in tests if (test["measure"] == MACRO) is macro] for macro in (True, False)):
        for test, corrected in zip(family, holm([test["p"] for test in family]), strict=True):
            test |= {"corrected": corrected, "comparisons": len(family)}
    ranking = tuple(_standing(names[place], counted[place], found, place, labels) for place in order)
    return Comparison(split, texts, len(counted[0].support), ranking, tuple(Difference(**test) for test in tests))


def _standing(name: str, counted: Counts, found: Resampled, place: int, labels: Sequence[str]) -> Standing:
    by_seed = counted.macro_f1_by_seed()
    low, high = found.interval(place)
    return Standing(
        name=name,
        seeds=len(by_seed),
        macro_f1=float(found.found[place, 0]),
        low=low,
        high=high,
        std=float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
        f1=dict(zip(labels, found.found[place, 1:].tolist(), strict=True)),
    )
