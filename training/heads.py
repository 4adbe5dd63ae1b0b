"""Small classifiers on what a lower layer of an encoder holds, taught by the whole encoder's answers.

A head looks at the tokens with a few queries of its own (Lin et al. 2017, "A Structured Self-Attentive Sentence
Embedding"), which finds what a mean over the tokens blurs, and reads what they found with one hidden layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from tqdm import tqdm

QUERIES = 8
INNER = 128
DROPOUT = 0.2
EPOCHS = 8
RATE = 3e-3
DECAY = 0.01

Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class Taught:
    """A batch that heads are fitted to: texts of one length.

    Attributes:
        held: what the layer holds, float16 (texts, tokens, channels).
        probabilities: the whole encoder's calibrated answers, float32 (texts, labels).
    """

    held: npt.NDArray[np.float16]
    probabilities: npt.NDArray[np.float32]


class Head(torch.nn.Module):  # type: ignore[misc]
    """Attention pooling and one hidden layer: float32 (texts, tokens, channels) to logits (texts, labels)."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.queries = torch.nn.Linear(channels, QUERIES, bias=False)
        self.inner = torch.nn.Linear(QUERIES * channels, INNER)
        self.outer = torch.nn.Linear(INNER, labels)
        self.dropout = torch.nn.Dropout(DROPOUT)

    def forward(self, held: torch.Tensor) -> torch.Tensor:
        """Logits."""
        weights = torch.softmax(self.queries(held).transpose(1, 2), dim=-1)
        found = self.dropout((weights @ held).flatten(1))
        logits: torch.Tensor = self.outer(self.dropout(functional.gelu(self.inner(found))))
        return logits


def fit(batches: Sequence[Taught], task: str, title: str) -> Mapping[str, npt.NDArray[np.float32]]:
    """Fits a head, from the same start each time.

    Args:
        batches: one update each, in another order every epoch.
        task: one label a text, or any number.
        title: of the progress bar.

    Returns:
        `queries` (channels, QUERIES), `inner` (QUERIES * channels, INNER), `inner_bias`, `outer` (INNER, labels) and
        `outer_bias`; its logits are on the scale of calibrated ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = Head(batches[0].held.shape[-1], batches[0].probabilities.shape[-1])
        optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=DECAY)
        updates = EPOCHS * len(batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=updates + 1)
        largest = max(len(batch.held) for batch in batches)
        numbers = np.random.default_rng(0)
        order = np.concatenate([numbers.permutation(len(batches)) for _ in range(EPOCHS)])
        for place in tqdm(order, desc=title, unit="step", delay=2, disable=None, leave=False):
            logits = head(torch.from_numpy(batches[place].held.astype(np.float32)))
            wanted = torch.from_numpy(batches[place].probabilities)
            (_loss(logits, wanted, task) / largest).backward()  # a short batch counts for less
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
    weights = {name: value.detach().numpy() for name, value in head.named_parameters()}
    names = {"queries.weight": "queries", "inner.weight": "inner", "outer.weight": "outer"}
    turned = {short: np.ascontiguousarray(weights[name].T) for name, short in names.items()}
    return turned | {"inner_bias": weights["inner.bias"], "outer_bias": weights["outer.bias"]}


def _loss(logits: torch.Tensor, wanted: torch.Tensor, task: str) -> torch.Tensor:
    if task == "single_label":
        return functional.cross_entropy(logits, wanted, reduction="sum")
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / wanted.shape[1]
