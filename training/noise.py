"""Labels of a corpus that may be wrong, by confident learning."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cleanlab import filter as issues
from cleanlab import rank
from cleanlab.multilabel_classification import filter as multilabel_issues
from cleanlab.multilabel_classification import rank as multilabel_rank
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from tqdm import tqdm

from training.corpus import Corpus
from training.words import tfidf

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int8]

FOLDS = 5


@dataclass(frozen=True)
class Suspect:
    """A text whose labels may be wrong.

    Attributes:
        split, id, text: where it stands and what it says.
        given, suggested: labels as they are, and as the classifier would have them.
        score: quality of the given labels, 0 (surely wrong) to 1.
    """

    split: str
    id: str
    text: str
    given: tuple[str, ...]
    suggested: tuple[str, ...]
    score: float


def noise(data: Corpus, folds: int = FOLDS, seed: int = 0) -> list[Suspect]:
    """Texts of all splits whose labels a classifier doubts that has not seen their scenario, the worst first.

    Confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset
    Labels", JAIR 70) by cleanlab, on out-of-fold probabilities of TF-IDF and logistic regression. They are
    candidates for another reading, and most are merely hard: of 30 wrong labels planted in 600 texts, 19 were among
    126 suspects.

    Args:
        data: the corpus.
        folds: of the cross-validation, grouped by scenario; no more are made than there are scenarios.
        seed: of the folds.
    """
    places = [(split.name, row) for split in data.splits for row in split.rows]
    truth = np.concatenate([split.truth for split in data.splits])
    # confident learning compares those with a label to those without: a label that all or none have is left out
    varied = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    if not len(varied):
        return []
    groups = [group for split in data.splits for group in split.groups]
    probabilities = _out_of_fold([row["text"] for _, row in places], truth[:, varied], groups, data.task, folds, seed)
    suggested = truth.copy()
    with warnings.catch_warnings():
        # a label of a single text is not judged, which is as it should be
        warnings.filterwarnings("ignore", message="May not flag all label issues", category=UserWarning)
        suggested[:, varied], scores = _doubted(truth[:, varied], probabilities, data.task)
    doubted = np.flatnonzero((suggested != truth).any(axis=1))
    return [
        Suspect(
            split=places[i][0],
            id=places[i][1]["id"],
            text=places[i][1]["text"],
            given=_names(truth[i], data.labels),
            suggested=_names(suggested[i], data.labels),
            score=float(scores[i]),
        )
        for i in doubted[np.argsort(scores[doubted], kind="stable")]
    ]


def _out_of_fold(texts: Sequence[str], truth: Ints, groups: Sequence[str], task: str, folds: int, seed: int) -> Floats:
    """Probabilities (texts, labels), each by a model fitted on other scenarios."""
    features = tfidf(2).fit_transform(texts)  # knows no label: one fit serves all folds
    splitter = GroupKFold(min(folds, len(set(groups))), shuffle=True, random_state=seed)
    result = np.zeros(truth.shape)
    parts = list(splitter.split(features, groups=groups))
    for fitted, held in tqdm(parts, desc="noise", unit="fold", disable=None, leave=False):
        if task == "single_label":
            classes, values = _probabilities(features, truth.argmax(axis=1), fitted, held, "lbfgs")
            result[np.ix_(held, classes)] = values
            continue
        for label in range(truth.shape[1]):
            classes, values = _probabilities(features, truth[:, label], fitted, held, "liblinear")
            result[held, label] = values[:, classes == 1].sum(axis=1)
    return result


def _probabilities(
    features: csr_matrix, classes: npt.NDArray[Any], fitted: npt.NDArray[Any], held: npt.NDArray[Any], solver: str
) -> tuple[npt.NDArray[Any], Floats]:
    """The classes among the fitted rows, and probabilities (held rows, those classes)."""
    known = np.unique(classes[fitted])
    if len(known) == 1:  # logistic regression wants two
        return known, np.ones((len(held), 1))
    # no class weights: confident learning wants probabilities as they are
    model = LogisticRegression(C=4.0, solver=solver, max_iter=1000).fit(features[fitted], classes[fitted])
    return known, np.asarray(model.predict_proba(features[held]), dtype=np.float64)


def _doubted(truth: Ints, probabilities: Floats, task: str) -> tuple[Ints, Floats]:
    """Labels (texts, labels) as cleanlab would have them, and the quality (texts,) of the given ones."""
    if task == "multi_label" and truth.shape[1] == 1:  # cleanlab takes one label for no multi-label task
        two, scores = _doubted(_both(truth), _both(probabilities), "single_label")
        return two[:, 1:], scores
    result = truth.copy()
    if task == "single_label":
        classes = truth.argmax(axis=1)
        doubted = issues.find_label_issues(classes, probabilities, n_jobs=1)
        best = probabilities.argmax(axis=1)
        result[doubted] = 0
        result[doubted, best[doubted]] = 1
        return result, np.asarray(rank.get_label_quality_scores(classes, probabilities))
    given = [np.flatnonzero(row).tolist() for row in truth]
    # cleanlab's `find_label_issues` flags a text where this flags any of its labels; which one is wanted as well
    doubted = multilabel_issues.find_multilabel_issues_per_class(given, probabilities, n_jobs=1)
    # in a doubted text, what is less likely than not goes too: the wrong label with the one that it stands for
    result[doubted | (doubted.any(axis=1, keepdims=True) & (np.abs(truth - probabilities) > 0.5))] ^= 1
    return result, np.asarray(multilabel_rank.get_label_quality_scores(given, probabilities))


def _both(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.column_stack([1 - values, values])


def _names(row: Ints, labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(label for label, carried in zip(labels, row, strict=True) if carried)
