"""A tiny corpus, a tiny encoder, and a run and bundle made from them once a session."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Two thread pools on two cores slow each other many times over; tiny models need one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

# `make test` takes the same few examples each time, `make fuzz` others each time.
settings.register_profile("quick", max_examples=40, deadline=None, derandomize=True)
settings.register_profile("fuzz", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

ROOT = Path(__file__).resolve().parent.parent
LABELS = ["proposal", "condition", "rejection", "reaction"]
PHRASES = {
    "proposal": ["we propose talks in", "we urge a meeting in", "we offer help to"],
    "condition": ["only if they leave", "provided that they sign in", "unless they withdraw from"],
    "rejection": ["we reject the plan for", "we refuse the terms of", "we rule out a deal on"],
    "reaction": ["we welcome the news from", "we regret the events in", "we condemn the attack on"],
}
PLACES = ["Oslo", "Lima", "Accra", "Hanoi", "Quito", "Dakar", "Tunis", "Riga", "Suva", "Doha", "Bern", "Baku"]


def rows_of(split: str, scenarios: range) -> list[dict[str, Any]]:
    """Statements whose cue phrases decide their labels, so that even a tiny model can learn them."""
    rows = []
    for number in scenarios:
        place, other = PLACES[number % 12], PLACES[(number * 5 + 3) % 12]
        plans = [[], *[[label] for label in LABELS], ["proposal", "condition"]]
        for position, intents in enumerate(plans):
            parts = [PHRASES[label][(number + position) % 3] + " " + place for label in intents]
            text = f"The minister of {other} said: " + (" and ".join(parts) or f"it rained in {place}") + "."
            rows.append(
                {
                    "id": f"{split}-{number}-{position}",
                    "text": text,
                    "intents": intents,
                    "scenario": f"{split}-{number}",
                }
            )
    return rows


def write_corpus(folder: Path, sizes: tuple[int, int, int] = (40, 8, 8)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    head = {"name": "tiny", "version": "1.0.0", "task": "multi_label", "labels": LABELS}
    (folder / "corpus.json").write_text(json.dumps(head))
    start = 0
    for split, size in zip(("train", "validation", "test"), sizes, strict=True):
        rows = rows_of(split, range(start, start + size))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        start += size
    return folder


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), tiny_corpus)


def write_encoder(folder: Path, corpus: Path, hidden: int = 32, words: int = 400) -> Path:
    """A two-layer BERT with random weights and a tokenizer over the tiny corpus' words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, BertTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = [json.loads(line)["text"] for line in (corpus / "train.jsonl").read_text().splitlines()]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=words, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    BertTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=words, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=2 * hidden,
            max_position_embeddings=64, initializer_range=0.1,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path, tiny_encoder: Path) -> Callable[[str], Path]:
    """Where the small model of an `encoder:` lies."""
    import torch

    from tests.architectures import HUB
    from training import corpus, pretrained

    folders = {pretrained.EMBEDDED: tiny_encoder}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("hub") / name.partition("/")[2]
            folders[name].mkdir()
            torch.manual_seed(0)
            HUB[name](folders[name], corpus.load(tiny_corpus).train.texts)
        return folders[name]

    return folder


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path, tiny_encoder: Path) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "tiny.yaml", tiny_corpus, tiny_encoder)


def write_config(file: Path, corpus: Path, encoder: Path) -> Path:
    file.write_text(f"""
name: tiny
family: encoder
corpus: {corpus}
seed: 1
encoder: {encoder}
max_length: 32
precision: float32
compile: false
freeze_embeddings: false
frozen_layers: 0
epochs: 20
patience: 20
batch_size: 16
learning_rate: 2e-3
head_factor: 2.0
layer_decay: 1.0
warmup: 0.1
schedule: linear
weight_decay: 0.01
dropout: 0.0
loss: cross_entropy
label_smoothing: 0.0
swap_actors: 0.0
clip: 1.0
ema: 0.0
""")
    return file


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> Path:
    from training import config
    from training.train import train

    return train(config.load(tiny_config), tmp_path_factory.mktemp("runs") / "tiny", track=False)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    from training.export import export

    return export(tiny_run, tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def leaving(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    """A bundle whose eight-bit model texts leave early, however little its validation split proves."""
    from training import exits, quantise
    from training.export import export

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exits, "FLIPS", 0.02)
        patch.setattr(quantise, "MAX_FLIPS", 1.0)
        patch.setattr(quantise, "MAX_F1_DROP", 1.0)
        return export(tiny_run, tmp_path_factory.mktemp("leaving") / "bundle")


@pytest.fixture
def bundle_copy(tmp_path: Path, exported: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow's with no run in it; making one takes seconds, copying it does not."""
    from training import store

    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        store.client().search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracking store of the test's own; the checkout's is never touched."""
    from training import store as stores

    folder = tmp_path / "mlflow"
    folder.mkdir()
    shutil.copyfile(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(stores, "STORE", folder)
    return uri
