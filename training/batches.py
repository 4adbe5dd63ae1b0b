"""Texts -> tokens -> batches of like length, padded."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

POOL = 32  # batches sorted by length together: little padding, and the order stays random enough
TOKENISE_BATCH = 1000  # what a tokenizer returns is many times the size of the tokens

Tokens = list["array[int]"]


def tokenised(tokenizer: Any, texts: Sequence[str], max_length: int) -> Tokens:
    """A row of token ids a text, cut off at `max_length`."""
    rows: Tokens = []
    starts = range(0, len(texts), TOKENISE_BATCH)
    for start in tqdm(starts, desc="tokens", unit="k", delay=2, disable=None, leave=False):
        batch = list(texts[start : start + TOKENISE_BATCH])
        found = tokenizer(batch, truncation=True, max_length=max_length, return_attention_mask=False)
        rows += [array("i", ids) for ids in found["input_ids"]]
    return rows


def replaced(rows: Tokens, texts: Mapping[int, str], tokenizer: Any, max_length: int) -> Tokens:
    """The rows, those of `texts` (place -> text) tokenised anew, all others as they are."""
    result = list(rows)
    for place, ids in zip(texts, tokenised(tokenizer, list(texts.values()), max_length), strict=True):
        result[place] = ids
    return result


def pad_id(tokenizer: Any) -> int:
    """The token that fills a batch up."""
    return int(tokenizer.pad_token_id or 0)


def batches(lengths: list[int], size: int, random: np.random.Generator) -> Iterator[list[int]]:
    """Shuffled batches of like length: shuffle, sort inside pools of batches, shuffle the batches."""
    order = random.permutation(len(lengths))
    found = []
    for start in range(0, len(order), size * POOL):
        pool = sorted(order[start : start + size * POOL].tolist(), key=lengths.__getitem__)
        found += [pool[i : i + size] for i in range(0, len(pool), size)]
    for place in random.permutation(len(found)):
        yield found[place]


def padded(rows: Tokens, pad: int, device: str | torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (rows, longest row)."""
    width = max(len(ids) for ids in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.frombuffer(row, dtype=torch.int32)
        mask[place, : len(row)] = 1
    return ids.to(device), mask.to(device)
