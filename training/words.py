"""Words of texts, as the probes of a corpus count them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer

NONE = "none"  # stands for "no label at all", as in the statistics
WORD = r"\w+"


def places_of(texts: Sequence[str]) -> dict[str, list[int]]:
    """Each word, and the texts that it stands in."""
    result: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        for word in sorted(set(re.findall(WORD, text.lower()))):
            result[word].append(number)
    return dict(result)


def tfidf(ngrams: int) -> TfidfVectorizer:
    """Word n-grams up to a length, their counts on a logarithmic scale."""
    return TfidfVectorizer(ngram_range=(1, ngrams), sublinear_tf=True, token_pattern=WORD)
