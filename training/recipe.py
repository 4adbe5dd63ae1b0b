"""What a config's numbers do in a fine-tuning: frozen layers, learning rates, precision, loss, mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from training.config import EncoderConfig
from training.corpus import Task

ASYMMETRIC_FOCUS = (1.0, 4.0)  # on texts with the label, and without it
ASYMMETRIC_MARGIN = 0.05

Loss = Callable[[torch.Tensor, torch.Tensor, Task], torch.Tensor]  # logits and targets (texts, labels) -> a number


def freeze(model: Any, config: EncoderConfig) -> None:
    """Word embeddings and bottom layers that stay as pretrained: faster, and unseen words keep their company."""
    if config.freeze_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    layers = model.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        if config.frozen_layers and _height(name, model) < min(config.frozen_layers, layers):
            parameter.requires_grad_(False)


def groups(model: Any, config: EncoderConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate and decay: layer-wise decayed (Howard and Ruder 2018), a faster head."""
    layers = model.config.num_hidden_layers
    found: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name:
            speed = config.learning_rate * config.head_factor
        else:
            speed = config.learning_rate * config.layer_decay ** max(0, layers - 1 - _height(name, model))
        decay = 0.0 if parameter.ndim < 2 else config.weight_decay
        found.setdefault((speed, decay), []).append(parameter)
    return [{"params": params, "lr": speed, "weight_decay": decay} for (speed, decay), params in found.items()]


def _height(name: str, model: Any) -> int:
    """Number of a parameter's layer, 0 the lowest; -1 below the layers or shared by them, their count above them."""
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    inside = name.startswith(f"{model.base_model_prefix}.") and ".pooler." not in name and ".final_norm." not in name
    return (numbers[0] if numbers else -1) if inside else int(model.config.num_hidden_layers)


def rate(step: int, steps: int, config: EncoderConfig) -> float:
    """What the learning rate is multiplied by at a step: a climb, then a straight line or half a cosine down to 0."""
    climb = max(1, int(config.warmup * steps))
    if step < climb:
        return (step + 1) / climb
    done = (step - climb) / max(1, steps - climb)
    return max(0.0, 1 - done) if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def autocasts(precision: str, device: str) -> bool:
    """Whether to compute in bfloat16: it pays where the hardware multiplies it; elsewhere it is emulated and slower."""
    if precision != "auto":
        return precision == "bfloat16"
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def loss(config: EncoderConfig, task: Task) -> Loss:
    """What the training makes small."""
    return asymmetric if config.loss == "asymmetric" and task == "multi_label" else cross_entropy


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
    """Over the labels of a single-label task, else of each label by itself."""
    if task == "single_label":
        return torch.nn.functional.cross_entropy(logits, targets)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)


def asymmetric(logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
    """Cross-entropy that leaves the easy texts alone, those without the label above all.

    Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification", with the paper's focus of 4 on negatives and 1
    on positives and its margin of 0.05; the logarithms as log-sigmoids, which do not overflow.
    """
    odds = torch.sigmoid(logits)
    shifted = (odds - ASYMMETRIC_MARGIN).clamp(min=0)
    positive = targets * (1 - odds) ** ASYMMETRIC_FOCUS[0] * torch.nn.functional.logsigmoid(logits)
    negative = (1 - targets) * shifted ** ASYMMETRIC_FOCUS[1] * torch.log1p(-shifted)
    return -2 * (positive + negative).mean()  # twice: gradients about as large as cross-entropy's


@torch.no_grad()
def average(mean: Any, model: Any, decay: float, step: int) -> None:
    """Running mean of the weights (Polyak and Juditsky 1992); short memory at first, so no bias to the start."""
    keep = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(mean.parameters()), list(model.parameters()), 1 - keep)
