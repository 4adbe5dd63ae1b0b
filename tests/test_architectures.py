"""Every config runs, all but the weights: trained, exported and read with a small model of its architecture."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import communique
from tests.architectures import HUB
from training import calibrate, config, corpus, pretrained
from training.batches import pad_id
from training.encoder import _predict
from training.errors import EncoderError
from training.export import export
from training.recipe import freeze, groups
from training.train import restore, train

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(set((ROOT / "configs").glob("*.yaml")) - {ROOT / "configs" / "sweep.yaml"})
Folder = Callable[[str], Path]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs(path: Path, folder_of: Folder, tiny_corpus: Path, tmp_path: Path) -> None:
    smaller: dict[str, Any] = {"corpus": tiny_corpus, "max_length": 64, "min_count": 1}
    smaller |= {"epochs": 15, "patience": 15, "batch_size": 16, "learning_rate": 4e-3, "frozen_layers": 0}
    shipped = config.load(path)
    if not isinstance(shipped, config.BaselineConfig):
        smaller["encoder"] = folder_of(shipped.encoder)
    overrides = [f"{key}={value}" for key, value in smaller.items() if key in type(shipped).model_fields]
    run = train(config.load(path, overrides), tmp_path / "run", track=False)
    fitted, calibration, _ = restore(run)
    texts = corpus.load(tiny_corpus).test.texts
    expected = calibrate.probabilities(fitted.logits(texts), calibration.temperature, "multi_label")
    assert expected.std(axis=0).min() > 0.02, "answers that are all alike would prove nothing"
    if isinstance(shipped, config.BaselineConfig):
        return
    bundle = export(run, tmp_path / "bundle")
    full, small = (communique.load(bundle, precision=name) for name in ("fp32", "int8"))
    assert np.abs(full.predict_proba(texts) - expected).max() < 1e-4

    tokenizer = fitted.tokenizer
    long = " ".join(texts[:10])
    windows = tokenizer(long, truncation=True, max_length=64, stride=16, return_overflowing_tokens=True)["input_ids"]
    assert len(windows) > 2
    logits = _predict(fitted.model, [array("i", ids) for ids in windows], pad_id(tokenizer)).max(axis=0, keepdims=True)
    expected = calibrate.probabilities(logits, calibration.temperature, "multi_label")
    assert np.abs(full.predict_proba([long]) - expected).max() < 1e-4

    report = full.manifest.quantisation
    flips = (full.predict(texts) != small.predict(texts)).mean()
    assert report["accepted"] == (full.manifest.precision == "int8") and flips < 0.2


def test_the_hub_models_are_those_of_the_configs() -> None:
    named = {getattr(config.load(path), "encoder", pretrained.EMBEDDED) for path in CONFIGS}
    assert named == {pretrained.EMBEDDED, *HUB}


# Rates with layer decay one half and a head three times as fast, by the start of a parameter's name; the rest is
# `head`. Both layers stand alone; what is below both or shared by them is slowest.
RATES = {
    pretrained.EMBEDDED: {
        "bert.embeddings.": 0.25, "bert.encoder.layer.0.": 0.5, "bert.encoder.layer.1.": 1.0,
        "bert.pooler.": 3.0, "classifier.": 3.0,
    },
    "microsoft/deberta-v3-base": {
        "deberta.embeddings.": 0.25, "deberta.encoder.rel_embeddings.": 0.25, "deberta.encoder.LayerNorm.": 0.25,
        "deberta.encoder.layer.0.": 0.5, "deberta.encoder.layer.1.": 1.0, "pooler.": 3.0, "classifier.": 3.0,
    },
    "answerdotai/ModernBERT-base": {
        "model.embeddings.": 0.25, "model.layers.0.": 0.5, "model.layers.1.": 1.0, "model.final_norm.": 1.0,
        "head.": 3.0, "classifier.": 3.0,
    },
    "FacebookAI/xlm-roberta-base": {
        "roberta.embeddings.": 0.25, "roberta.encoder.layer.0.": 0.5, "roberta.encoder.layer.1.": 1.0,
        "classifier.": 3.0,
    },
}  # fmt: skip


def _loaded(name: str, folder_of: Folder, tiny_corpus: Path, *overrides: str) -> tuple[Any, config.EncoderConfig]:
    recipe = ["learning_rate=0.5", "layer_decay=0.5", "head_factor=3.0", "freeze_embeddings=false", "frozen_layers=0"]
    settings = config.load(ROOT / "configs/minilm.yaml", [*recipe, *overrides])
    assert isinstance(settings, config.EncoderConfig)
    model, _ = pretrained.load(str(folder_of(name)), 32, 0.3, corpus.load(tiny_corpus))
    return model, settings


@pytest.mark.parametrize("name", RATES)
def test_every_parameter_has_its_rate(name: str, folder_of: Folder, tiny_corpus: Path) -> None:
    model, settings = _loaded(name, folder_of, tiny_corpus)
    found = groups(model, settings)
    rates = {id(parameter): group["lr"] / 0.5 for group in found for parameter in group["params"]}
    assert sum(len(group["params"]) for group in found) == len(rates) == len(list(model.parameters()))
    for parameter_name, parameter in model.named_parameters():
        (expected,) = (rate for start, rate in RATES[name].items() if parameter_name.startswith(start))
        assert rates[id(parameter)] == expected, parameter_name
    assert {group["weight_decay"] for group in found for p in group["params"] if p.ndim < 2} == {0.0}


@pytest.mark.parametrize("name", RATES)
def test_what_a_config_freezes_is_frozen(name: str, folder_of: Folder, tiny_corpus: Path) -> None:
    def frozen(*overrides: str) -> set[str]:
        model, settings = _loaded(name, folder_of, tiny_corpus, *overrides)
        freeze(model, settings)
        return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}

    model, _ = _loaded(name, folder_of, tiny_corpus)
    below = {rate: tuple(start for start, own in RATES[name].items() if own <= rate) for rate in (0.5, 1.0)}
    names = [name for name, _ in model.named_parameters()]
    assert len(frozen("freeze_embeddings=true")) == 1
    assert frozen("frozen_layers=1") == {one for one in names if one.startswith(below[0.5])}
    every = {one for one in names if one.startswith(below[1.0]) and "final_norm" not in one}
    assert frozen("frozen_layers=2") == frozen("frozen_layers=9") == every


@pytest.mark.parametrize("name", RATES)
def test_dropout_is_the_configs_everywhere(name: str, folder_of: Folder, tiny_corpus: Path) -> None:
    import torch

    model, _ = _loaded(name, folder_of, tiny_corpus)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.3}


@pytest.mark.parametrize("name", HUB)
def test_a_hub_name_without_network_is_explained(name: str, tiny_corpus: Path) -> None:
    with pytest.raises(EncoderError, match=f"hf download {name} --local-dir FOLDER.*--set encoder=FOLDER"):
        pretrained.load(name, 32, 0.1, corpus.load(tiny_corpus))


def test_a_folder_without_a_model_is_explained(tmp_path: Path, tiny_corpus: Path) -> None:
    with pytest.raises(EncoderError, match="the folder holds no model"):
        pretrained.load(str(tmp_path), 32, 0.1, corpus.load(tiny_corpus))


def test_a_window_wider_than_the_model_reads_is_refused(tiny_encoder: Path, tiny_corpus: Path) -> None:
    with pytest.raises(EncoderError, match="reads 64 tokens, max_length is 65"):
        pretrained.load(str(tiny_encoder), 65, 0.1, corpus.load(tiny_corpus))
