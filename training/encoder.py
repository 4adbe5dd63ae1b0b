"""Fine-tuning a pretrained transformer for sequence classification.

`fit` reads from top to bottom: weights, tokens, optimiser, epochs. The result is a plain Hugging Face
`AutoModelForSequenceClassification`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import average_precision_score, f1_score
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from training import actors, pretrained, ranks, recipe
from training.batches import Tokens, batches, pad_id, padded, replaced, tokenised
from training.checkpoint import Checkpoints
from training.config import EncoderConfig
from training.console import say
from training.corpus import Corpus, Split, Task
from training.errors import DivergedError
from training.fitted import OnEpoch
from training.state import State

PREDICT_BATCH = 64

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Encoder:
    """A fine-tuned model with its tokenizer."""

    model: Any
    tokenizer: Any
    max_length: int

    def logits(self, texts: Sequence[str]) -> Floats:
        """Scores (texts, labels), float32 arithmetic."""
        return _predict(self.model, tokenised(self.tokenizer, texts, self.max_length), pad_id(self.tokenizer))

    def shift(self, amounts: Sequence[float]) -> None:
        """Adds to each label's logit, in the bias of the last layer, so that every reader of the weights has it."""
        layer = self.model.get_submodule(pretrained.last_layer(self.model))
        with torch.no_grad():
            layer.bias += torch.tensor(amounts, dtype=layer.bias.dtype, device=layer.bias.device)

    def save(self, folder: Path) -> None:
        """Writes config.json, model.safetensors and the tokenizer's files."""
        pretrained.quiet()
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.model.parameters())


def fit(config: EncoderConfig, corpus: Corpus, on_epoch: OnEpoch, checkpoints: Checkpoints | None = None) -> Encoder:
    """Fine-tunes on train, watches validation, returns the best epoch's model.

    Args:
        config: the recipe.
        corpus: labels, task, train and validation.
        on_epoch: called after each epoch with `train/loss`, `train/learning_rate`, `val/loss`,
            `val/macro_f1` (at 0.5) and `val/macro_ap`. Raising there ends the training. Called again for an epoch
            that ended just before the training was cut short.
        checkpoints: where the training is saved, and from whose newest it goes on; None saves nothing.

    Raises:
        EncoderError: the encoder cannot be found or loaded.
        DivergedError: the weights ran off.
        KeyboardInterrupt: Ctrl-C; a checkpoint was saved first.
    """
    pretrained.determinism(config.seed)
    accelerator = ranks.accelerator()
    device = accelerator.device
    model, tokenizer = pretrained.load(config.encoder, config.max_length, config.dropout, corpus)
    model.to(device)
    recipe.freeze(model, config)
    train = tokenised(tokenizer, corpus.train.texts, config.max_length)
    validation = tokenised(tokenizer, corpus.validation.texts, config.max_length)
    targets = torch.tensor(corpus.train.truth, dtype=torch.float32, device=device)
    targets = targets * (1 - 2 * config.label_smoothing) + config.label_smoothing
    pad = pad_id(tokenizer)

    training_loss = recipe.loss(config, corpus.task)
    steps = math.ceil(len(train) / config.batch_size) * config.epochs
    optimizer = torch.optim.AdamW(recipe.groups(model, config), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.rate(step, steps, config))
    average = copy.deepcopy(model).eval() if config.ema else None
    if config.compile:
        model.compile(dynamic=True)  # in place: the weights keep their names
    parallel = accelerator.prepare(model)  # the same weights; its gradients are the mean over the processes
    autocast = recipe.autocasts(config.precision, device.type)
    texts = corpus.train.texts
    naming = _naming_states(texts) if config.swap_actors else []
    swaps = round(config.swap_actors * len(naming))

    checkpoints = checkpoints or Checkpoints(None)
    at = State(model, average, optimizer, schedule, np.random.default_rng(config.seed), Random(config.seed))
    if saved := ranks.agreed(checkpoints.latest):
        at.restore(*saved)
        say(f"going on from epoch {at.epoch}, update {schedule.last_epoch} of {steps}")
    with (
        tqdm(total=steps, initial=schedule.last_epoch, unit="step", disable=None, leave=False) as bar,
        checkpoints.listening(),
    ):
        while at.epoch <= config.epochs and at.waited < config.patience:
            model.train()
            swapped = {i: actors.random_swap(texts[i], at.draw) for i in at.draw.sample(naming, swaps)}
            rows = replaced(train, swapped, tokenizer, config.max_length)
            ordered = list(batches([len(ids) for ids in rows], config.batch_size, at.random))
            for places in ordered[len(at.losses) :]:
                mine, weight = ranks.part(places)
                if ranks.number() > 0:  # its dropout is in no checkpoint
                    torch.manual_seed(config.seed + schedule.last_epoch * ranks.count() + ranks.number())
                ids, mask = padded([rows[i] for i in mine], pad, device)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
                    output = parallel(input_ids=ids, attention_mask=mask).logits
                loss = weight * training_loss(output.float(), targets[mine], corpus.task)
                accelerator.backward(loss)
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                if average is not None:
                    recipe.average(average, model, config.ema, schedule.last_epoch)
                at.losses.append(accelerator.reduce(loss.detach(), "mean"))
                bar.update()
                if checkpoints.due():
                    checkpoints.save(*at.saved())
            candidate = average if average is not None else model
            figures = ranks.agreed(partial(_validated, candidate, validation, corpus.validation, pad, corpus.task))
            figures["train/loss"] = float(torch.stack(at.losses).mean())
            figures["train/learning_rate"] = float(schedule.get_last_lr()[-1])
            on_epoch(at.epoch, figures)
            bar.set_postfix(f1=f"{figures['val/macro_f1']:.3f}")
            at.end_epoch(candidate, figures["val/macro_ap"])
            checkpoints.save(*at.saved())
    model.load_state_dict(at.best)
    return Encoder(model.float().eval().cpu(), tokenizer, config.max_length)


def load(folder: Path) -> Encoder:
    """Reads what `save` wrote."""
    pretrained.quiet()
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Encoder(model.eval(), tokenizer, int(tokenizer.model_max_length))


def _naming_states(texts: Sequence[str]) -> list[int]:
    """Places of the texts that name a state."""
    watched = tqdm(texts, desc="states", unit="text", disable=None, leave=False)
    return [place for place, text in enumerate(watched) if actors.find(text)]


@torch.inference_mode()
def _predict(model: Any, rows: Tokens, pad: int) -> Floats:
    model.eval()
    if not rows:
        return np.empty((0, model.config.num_labels))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    outputs = []
    for start in tqdm(range(0, len(order), PREDICT_BATCH), unit="batch", delay=2, disable=None, leave=False):
        ids, mask = padded([rows[i] for i in order[start : start + PREDICT_BATCH]], pad, model.device)
        outputs.append(model(input_ids=ids, attention_mask=mask).logits.float().cpu().numpy())
    return np.concatenate(outputs).astype(np.float64)[np.argsort(order)]


def _validated(model: Any, rows: Tokens, split: Split, pad: int, task: Task) -> dict[str, float]:
    logits = _predict(model, rows, pad)
    if not np.isfinite(logits).all():
        raise DivergedError("the training diverged: the model answers with no numbers any more; lower learning_rate.")
    truth = split.truth
    decided = np.zeros_like(truth)
    if task == "single_label":
        decided[np.arange(len(truth)), logits.argmax(axis=1)] = 1
    else:
        decided = (logits >= 0).astype(np.int8)
    loss = recipe.cross_entropy(torch.tensor(logits), torch.tensor(truth, dtype=torch.float64), task)
    present = truth.any(axis=0)
    return {
        "val/loss": float(loss),
        "val/macro_f1": float(f1_score(truth, decided, average="macro", zero_division=0.0)),
        "val/macro_ap": float(average_precision_score(truth[:, present], logits[:, present], average="macro")),
    }
