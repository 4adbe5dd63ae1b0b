"""Words that all but decide a label of a corpus.

A word that decides a label here but not outside is learnt instead of the meaning (Gururangan et al. 2018, "Annotation
Artifacts in Natural Language Inference Data").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.corpus import Corpus, Split
from training.words import NONE, places_of

Ints = npt.NDArray[np.int8]

SEEN = 5  # texts in which a word must stand outside for its share there to say anything
LIFE = 0.6  # outside share under which a word does not give its label away in life


@dataclass(frozen=True)
class Giveaway:
    """A word that all but decides a label.

    Attributes:
        word, label: the word, lower-cased, and the label; "none" where its texts carry no label.
        texts, share: number of texts with the word, and the share of them that carry the label.
        outside_texts: the same number in the outside file; None without one.
        outside_share: the same share there; None where fewer than `SEEN` texts have the word.
        fault: there is an outside file, and there the word does not occur or does not give the label away.
    """

    word: str
    label: str
    texts: int
    share: float
    outside_texts: int | None
    outside_share: float | None
    fault: bool


def giveaways(data: Corpus, outside: Split | None, minimum: int = 20, share: float = 0.95) -> list[Giveaway]:
    """Single words whose texts nearly all carry one label, or none; faults first, then by number of texts.

    A label that `share` of all texts carry anyway is given away by no word.

    Args:
        data: the corpus, over all splits.
        outside: labelled texts of life, the labels in the corpus' order; None for no judgement.
        minimum: texts in which a word must stand.
        share: of them, that carry the label.
    """
    truth = _with_none(np.concatenate([split.truth for split in data.splits]))
    there = _with_none(outside.truth) if outside else None
    places = places_of([text for split in data.splits for text in split.texts])
    places_there = places_of(outside.texts) if outside else {}
    rare = truth.mean(axis=0) < share
    found = []
    for word, rows in places.items():
        if len(rows) < minimum:
            continue
        shares = truth[rows].mean(axis=0)
        for i in np.flatnonzero((shares >= share) & rare):
            label = [*data.labels, NONE][i]
            rows_there = places_there.get(word, [])
            share_there = float(there[rows_there, i].mean()) if there is not None and len(rows_there) >= SEEN else None
            found.append(
                Giveaway(
                    word=word,
                    label=label,
                    texts=len(rows),
                    share=float(shares[i]),
                    outside_texts=len(rows_there) if outside else None,
                    outside_share=share_there,
                    fault=outside is not None and (not rows_there or (share_there is not None and share_there < LIFE)),
                )
            )
    return sorted(found, key=lambda one: (not one.fault, -one.texts, one.word, one.label))


def _with_none(truth: Ints) -> Ints:
    return np.column_stack([truth, ~truth.any(axis=1)]).astype(np.int8)
