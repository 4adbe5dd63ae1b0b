"""What every family's `fit` returns, and what travels with a run: logits for texts, and files on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
OnEpoch = Callable[[int, Mapping[str, float]], None]  # epoch from 1, flat figures of that epoch


class Fitted(Protocol):
    """A trained model of any family."""

    def logits(self, texts: Sequence[str]) -> Floats:
        """Uncalibrated scores (texts, labels); the sigmoid or softmax of them are probabilities."""
        ...

    def shift(self, amounts: Sequence[float]) -> None:
        """Adds an amount a label to the logits, from now on and in what is saved."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the weights into `folder`, with no pickle among them."""
        ...

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        ...
