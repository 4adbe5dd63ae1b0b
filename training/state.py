"""All that a fine-tuning changes: saved and restored, it goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import torch

from training.checkpoint import Arrays

_COUNTED = ("epoch", "best_figure", "waited")


@dataclass
class State:
    """All that training changes; saved and restored, it goes on as if it had never stopped."""

    model: Any
    average: Any  # None without one
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    random: np.random.Generator  # orders the batches
    draw: Random  # chooses the swapped states
    epoch: int = 1
    losses: list[torch.Tensor] = field(default_factory=list)  # of the epoch's updates so far
    best_figure: float = -1.0
    waited: int = 0  # epochs since the best

    def __post_init__(self) -> None:
        """Starts with the weights as they are."""
        self.best = snapshot(self.model)
        self._drawn = self._generators()

    def end_epoch(self, candidate: Any, figure: float) -> None:
        """Keeps the candidate's weights where its figure is the best so far, and turns to the next epoch."""
        self.waited += 1
        if figure > self.best_figure:
            self.best, self.best_figure, self.waited = snapshot(candidate), figure, 0
        self.epoch, self.losses, self._drawn = self.epoch + 1, [], self._generators()

    def saved(self) -> tuple[Arrays, dict[str, Any]]:
        """Everything as arrays and as what JSON can hold."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        for place, values in optimizer["state"].items():
            tensors |= {f"optimizer/{place}/{name}": value for name, value in values.items()}
        if self.losses:
            tensors["losses/all"] = torch.stack(self.losses)
        tensors["dropout/cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["dropout/cuda"] = torch.cuda.get_rng_state()
        state = {
            **{name: getattr(self, name) for name in _COUNTED},
            "groups": optimizer["param_groups"],
            "schedule": self.schedule.state_dict(),
            "drawn": self._drawn,
        }
        return {name: value.detach().cpu().contiguous().numpy() for name, value in tensors.items()}, state

    def restore(self, arrays: Arrays, state: Mapping[str, Any]) -> None:
        """Takes up what `saved` gave, in the middle of an epoch as well: its order is drawn again."""
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in arrays.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = torch.tensor(value)
        device = self.model.device
        self.model.load_state_dict(parts["model"])
        self.best = {name: value.to(device) for name, value in parts["best"].items()}
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in parts.get("optimizer", {}).items():
            place, _, kind = name.partition("/")
            moments.setdefault(int(place), {})[kind] = value
        self.optimizer.load_state_dict({"state": moments, "param_groups": state["groups"]})
        self.schedule.load_state_dict(dict(state["schedule"]))
        self.losses = list(parts["losses"]["all"].to(device)) if "losses" in parts else []
        for name in _COUNTED:
            setattr(self, name, state[name])
        self._drawn = state["drawn"]
        self.random.bit_generator.state = self._drawn["random"]
        version, numbers, gauss = self._drawn["draw"]
        self.draw.setstate((version, tuple(numbers), gauss))
        torch.set_rng_state(parts["dropout"]["cpu"])
        if "cuda" in parts["dropout"]:
            torch.cuda.set_rng_state(parts["dropout"]["cuda"])

    def _generators(self) -> dict[str, Any]:
        """Where the generators stand as an epoch begins: from here its order and its swaps can be drawn again."""
        return {"random": self.random.bit_generator.state, "draw": self.draw.getstate()}


def snapshot(model: Any) -> Mapping[str, torch.Tensor]:
    """A copy of the weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
