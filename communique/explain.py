"""Which words carry a prediction, found by leaving them out.

Occlusion (Zeiler and Fergus 2014) on words (leave-one-out; Li, Monroe and Jurafsky 2016, "Understanding
neural networks through representation erasure"): the text is classified again without each of its words, and
a word weighs what the prediction loses without it. Words are left out, not masked: that needs no mask token
of the tokenizer, and it found the words that count no worse.

What a weight is not: words that say the same thing twice cover for one another, and each alone weighs little.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from communique.errors import InputError

if TYPE_CHECKING:
    from communique.classifier import Classifier, Statement

MAX_WORDS = 200  # the work grows with the square of the length, and no sentence is this long

_WORD = re.compile(r"\w+(?:['’.,\-]\w+)*")
_EDGE = 1e-7  # the nearest to 0 and 1 that float32 probabilities tell apart


@dataclass(frozen=True)
class Word:
    """A word of an explained text.

    Attributes:
        text: the word; `explained[start:end]`.
        start, end: character offsets in the explained text.
        weights: for every label, what its log-odds (natural logarithm) lose when the word is left out;
            below 0 where the word speaks against the label.
    """

    text: str
    start: int
    end: int
    weights: dict[str, float]


@dataclass(frozen=True)
class Explanation:
    """A classified text and what each of its words adds.

    Attributes:
        statement: the text with its intents, as the classifier gives it.
        words: every word, in the order of the text.
    """

    statement: Statement
    words: tuple[Word, ...]


def explain(classifier: Classifier, text: str) -> Explanation:
    """Classifies a text and weighs its words; see `Classifier.explain`."""
    statement = classifier(text)
    words = weigh(classifier, text)
    if words is None:
        raise InputError(
            f"the text has more than {MAX_WORDS} words; explain takes one statement. "
            "Part it with classifier.read(text) and explain its sentences."
        )
    return Explanation(statement, words)


def weigh(classifier: Classifier, text: str) -> tuple[Word, ...] | None:
    """The words of a text with their weights; None where there are more than `MAX_WORDS`."""
    found = list(_WORD.finditer(text))
    if len(found) > MAX_WORDS:
        return None
    odds = _log_odds(classifier.predict_proba([text, *(_without(text, *word.span()) for word in found)]))
    weights = (odds[0] - odds[1:]).tolist()
    return tuple(
        Word(word.group(), *word.span(), dict(zip(classifier.classes_, row, strict=True)))
        for word, row in zip(found, weights, strict=True)
    )


def deciding(words: tuple[Word, ...], label: str, most: int = 5) -> list[Word]:
    """The words that speak most for a label, heaviest first: those with at least a quarter of the first's weight."""
    ranked = sorted(words, key=lambda word: -word.weights[label])[:most]
    return [word for word in ranked if word.weights[label] > max(0.0, ranked[0].weights[label] / 4)]


def _without(text: str, start: int, end: int) -> str:
    opens = start == 0 or text[start - 1].isspace()
    return text[:start] + text[end + (opens and text[end : end + 1].isspace()) :]


def _log_odds(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    clipped = np.clip(probabilities.astype(np.float64), _EDGE, 1 - _EDGE)
    return np.asarray(np.log(clipped / (1 - clipped)))
