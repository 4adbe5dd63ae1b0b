"""The baseline that every other config must beat: TF-IDF and logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import skops.io
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from training.config import BaselineConfig
from training.corpus import Corpus
from training.errors import RunError
from training.fitted import OnEpoch

FILE = "model.skops"


@dataclass(frozen=True)
class Baseline:
    """A fitted scikit-learn pipeline."""

    pipeline: Pipeline

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Log odds (texts, labels) of each label against the rest."""
        scores = np.asarray(self.pipeline.decision_function(list(texts)), dtype=np.float64)
        return scores.reshape(len(texts), -1)

    def shift(self, amounts: Sequence[float]) -> None:
        """Adds to each label's log odds, in its intercept."""
        for one, amount in zip(self.pipeline[-1].estimators_, amounts, strict=True):
            one.intercept_ = one.intercept_ + amount

    def save(self, folder: Path) -> None:
        """Writes `model.skops`, which holds no pickle."""
        folder.mkdir(parents=True, exist_ok=True)
        skops.io.dump(self.pipeline, folder / FILE)

    @property
    def parameters(self) -> int:
        """Coefficients and intercepts over all labels."""
        return int(sum(one.coef_.size + one.intercept_.size for one in self.pipeline[-1].estimators_))


def fit(config: BaselineConfig, corpus: Corpus, on_epoch: OnEpoch) -> Baseline:
    """Fits on train; one pass, so `on_epoch` is never called."""
    words = TfidfVectorizer(ngram_range=(1, config.word_ngrams), min_df=config.min_count, sublinear_tf=True)
    parts = [words]
    if config.char_ngrams:
        parts.append(
            TfidfVectorizer(
                analyzer="char_wb",
                ngram_range=(2, config.char_ngrams),
                min_df=config.min_count,
                sublinear_tf=True,
            )
        )
    classifier = LogisticRegression(
        C=config.inverse_regularisation, class_weight="balanced", max_iter=1000, random_state=config.seed
    )
    pipeline = make_pipeline(make_union(*parts), OneVsRestClassifier(classifier))
    pipeline.fit(corpus.train.texts, corpus.train.truth)
    return Baseline(pipeline)


def load(folder: Path) -> Baseline:
    """Reads what `save` wrote; only scikit-learn's and numpy's own types are accepted.

    Raises:
        RunError: there is something else in it.
    """
    try:
        return Baseline(skops.io.load(folder / FILE, trusted=[]))
    except Exception as error:  # of skops, zipfile or json, by what is wrong
        raise RunError(f"{folder / FILE}: cannot be trusted or read ({error}). Train the run again.") from None
