"""What the tensors of a graph hold over texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import onnxruntime
from tqdm import tqdm

from training.graph import MASK, Array

BATCH = 64  # texts at a time


def spread(texts: Sequence[str], most: int) -> Sequence[str]:
    """At most so many of the texts, evenly over all."""
    return texts[:: -(-len(texts) // most)]


def held(
    model: bytes, tokenizer: Any, texts: Sequence[str], names: Sequence[str]
) -> Iterator[tuple[list[int], list[Array]]]:
    """Runs a model over texts, those of one length together: padding is nothing that a model is asked about.

    Args:
        model: the ONNX model; `names` are among its outputs.
        tokenizer: the bundle's; of a text longer than its window only the first window is read.
        texts: what to read.
        names: tensors.

    Yields:
        Places in `texts`, and the value of each tensor for them (texts, …).
    """
    encodings = tokenizer.encode_batch_fast(texts)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    wanted = {node.name for node in session.get_inputs()}
    order = sorted(range(len(texts)), key=lambda place: len(encodings[place]))
    with tqdm(total=len(texts), unit="text", delay=2, disable=None, leave=False) as bar:
        for length, group in groupby(order, key=lambda place: len(encodings[place])):
            alike = list(group)
            for places in (alike[start : start + BATCH] for start in range(0, len(alike), BATCH)):
                ids = np.array([encodings[place].ids for place in places], dtype=np.int64).reshape(-1, length)
                feed = {"input_ids": ids, MASK: np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
                yield places, session.run(names, {name: feed[name] for name in wanted})
                bar.update(len(places))


def rows(model: bytes, tokenizer: Any, texts: Sequence[str], names: Sequence[str]) -> list[Array]:
    """Tensors that have the same shape for every text, each as a whole (texts, …), in the order of the texts."""
    places, found = zip(*held(model, tokenizer, texts, names), strict=True)
    order = np.argsort(np.concatenate(places))
    return [np.concatenate(parts)[order] for parts in zip(*found, strict=True)]
