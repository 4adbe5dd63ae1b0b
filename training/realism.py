"""How well simple words tell a corpus from texts of life."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from training.corpus import Corpus
from training.errors import CorpusError
from training.words import tfidf

FOLDS = 5
BETRAYERS = 25
KIND = 20  # compared texts that a kind must have for an AUC of its own


@dataclass(frozen=True)
class Betrayer:
    """A word that betrays a side: its weight, and the share of texts with it in the corpus and outside."""

    word: str
    weight: float
    corpus: float
    outside: float


@dataclass(frozen=True)
class Realism:
    """How well words tell the corpus from outside texts.

    Attributes:
        auc: mean over folds of the area under the ROC curve; 0.5: not to be told apart, 1: at a glance.
        texts: compared texts a side.
        kinds: the same area for the corpus texts of each `kind` alone, against all outside texts.
        corpus, outside: the words that most betray each side, the strongest first.
    """

    auc: float
    texts: int
    kinds: dict[str, float]
    corpus: tuple[Betrayer, ...]
    outside: tuple[Betrayer, ...]


def realism(data: Corpus, outside_texts: Sequence[str], seed: int = 0) -> Realism:
    """How well logistic regression on word TF-IDF tells the corpus from outside texts, and by which words.

    A classifier two-sample test (Lopez-Paz and Oquab 2017, "Revisiting Classifier Two-Sample Tests"), with equally
    many texts a side and folds grouped by scenario; the area is taken within folds and averaged (Forman and
    Scholz 2010, "Apples-to-Apples in Cross-Validation Studies").

    Args:
        data: the corpus, over all splits.
        outside_texts: texts of life, of any number.
        seed: of the sample and the folds.

    Raises:
        CorpusError: fewer than five different texts outside, or fewer than five scenarios in the corpus.
    """
    rows = [row for split in data.splits for row in split.rows]
    scenarios = [group for split in data.splits for group in split.groups]
    size = min(len(rows), len(outside_texts))
    random = np.random.default_rng(seed)
    here = np.sort(random.choice(len(rows), size, replace=False))
    there = np.sort(random.choice(len(outside_texts), size, replace=False))
    texts = [*(rows[i]["text"] for i in here), *(outside_texts[i] for i in there)]
    # outside nothing is known of scenarios, but a text that stands twice must not be in two folds
    groups = [*((True, scenarios[i]) for i in here), *((False, outside_texts[i]) for i in there)]
    _, numbers = np.unique([json.dumps(group) for group in groups], return_inverse=True)
    ours = np.arange(2 * size) < size
    for side, name in ((ours, "scenarios of the corpus"), (~ours, "different outside texts")):
        if (count := len(set(numbers[side]))) < FOLDS:
            raise CorpusError(f"realism needs at least {FOLDS} {name}, found {count} among {size} texts a side.")
    kinds = np.array([*(str(rows[i].get("kind") or "") for i in here), *[""] * size])
    features = tfidf(1)
    matrix = features.fit_transform(texts)
    auc, by_kind = _areas(matrix, ours, numbers, kinds, seed)
    weights = LogisticRegression(solver="liblinear").fit(matrix, ours).coef_[0]
    shares = [np.asarray((matrix[side] > 0).sum(axis=0)).ravel() / size for side in (ours, ~ours)]
    words = features.get_feature_names_out()
    order = np.argsort(-weights, kind="stable")

    def betrayers(places: npt.NDArray[Any], sign: int) -> tuple[Betrayer, ...]:
        return tuple(
            Betrayer(str(words[i]), float(weights[i]), float(shares[0][i]), float(shares[1][i]))
            for i in places[:BETRAYERS]
            if weights[i] * sign > 0
        )

    return Realism(auc, size, by_kind, betrayers(order, 1), betrayers(order[::-1], -1))


def _areas(
    matrix: csr_matrix, ours: npt.NDArray[Any], groups: npt.NDArray[Any], kinds: npt.NDArray[Any], seed: int
) -> tuple[float, dict[str, float]]:
    areas: dict[str, list[float]] = defaultdict(list)
    wanted = [kind for kind in sorted(set(kinds)) if kind and (kinds == kind).sum() >= KIND]
    parts = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(matrix, ours, groups))
    for fitted, held in tqdm(parts, desc="realism", unit="fold", disable=None, leave=False):
        scores = (
            LogisticRegression(solver="liblinear").fit(matrix[fitted], ours[fitted]).decision_function(matrix[held])
        )
        for kind in ("", *wanted):
            chosen = ~ours[held] | (kinds[held] == kind) if kind else np.ones(len(held), dtype=bool)
            if len(set(ours[held][chosen])) == 2:
                areas[kind].append(float(roc_auc_score(ours[held][chosen], scores[chosen])))
    return float(np.mean(areas[""])), {kind: float(np.mean(areas[kind])) for kind in wanted}
