"""A frozen encoder stays as pretrained, averages its tokens, and its last layer is the regression."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import communique
from tests.architectures import HUB
from tests.conftest import write_corpus
from training import calibrate, config, corpus, pretrained
from training.errors import CorpusError, EncoderError
from training.export import export
from training.train import fit, restore, train

Folder = Callable[[str], Path]
MODELS = [pretrained.EMBEDDED, *HUB]


def _settings(folder: Path, data: Path, *overrides: str) -> config.AnyConfig:
    fixed = [f"encoder={folder}", f"corpus={data}", "max_length=64"]
    return config.load("configs/frozen.yaml", [*fixed, *overrides])


def _fitted(folder: Path, data: Path, *overrides: str) -> Any:
    return fit(_settings(folder, data, *overrides), corpus.load(data), lambda epoch, figures: None)


def _token_means(folder: Path, texts: list[str]) -> Any:
    """(texts, hidden): the mean over the tokens of what the untouched encoder says of each, brought to one size."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
    with torch.no_grad():
        means = torch.cat([model(input_ids=ids).last_hidden_state.mean(dim=1) for ids in rows])
        return torch.nn.functional.layer_norm(means, means.shape[-1:])


@pytest.mark.parametrize("name", MODELS)
def test_the_encoder_stays_and_its_tokens_are_averaged(name: str, folder_of: Folder, tiny_corpus: Path) -> None:
    import torch

    before, _ = pretrained.load(str(folder_of(name)), 64, 0.0, corpus.load(tiny_corpus))
    fitted = _fitted(folder_of(name), tiny_corpus)
    after = dict(fitted.model.base_model.named_parameters())
    for parameter_name, parameter in before.base_model.named_parameters():
        if not parameter_name.startswith("pooler."):
            assert torch.equal(parameter, after[parameter_name]), parameter_name
    if name == "answerdotai/ModernBERT-base":
        assert fitted.model.config.classifier_pooling == "mean" and len(after) == len(
            dict(before.base_model.named_parameters())
        )
        return
    texts = corpus.load(tiny_corpus).test.texts[:12]
    tokens = fitted.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = fitted.model.base_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    assert torch.allclose(states.last_hidden_state[:, 0], _token_means(folder_of(name), texts), atol=0.05)


def test_the_last_layer_is_the_regression(folder_of: Folder, tiny_corpus: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = corpus.load(tiny_corpus)
    folder = folder_of(pretrained.EMBEDDED)
    logits = _fitted(folder, tiny_corpus, "inverse_regularisation=1.0").logits(data.test.texts)
    train_features, test_features = (
        np.tanh(0.1 * _token_means(folder, split.texts).numpy()) for split in (data.train, data.test)
    )
    for i in range(len(data.labels)):
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
        expected = pipeline.fit(train_features, data.train.truth[:, i]).decision_function(test_features)
        assert np.abs(logits[:, i] - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("name", HUB)
def test_any_architecture_is_exported_and_falls_back_where_int8_changes_answers(
    name: str, pooling: str, folder_of: Folder, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.quantise.MAX_FLIPS", -1.0)
    run = train(_settings(folder_of(name), tiny_corpus, f"pooling={pooling}"), tmp_path / "run", track=False)
    fitted, calibration, _ = restore(run)
    texts = corpus.load(tiny_corpus).test.texts
    expected = calibrate.probabilities(fitted.logits(texts), calibration.temperature, "multi_label")
    classifier = communique.load(export(run, tmp_path / "bundle"))
    assert expected.std(axis=0).min() > 0.01 and np.abs(classifier.predict_proba(texts) - expected).max() < 1e-4
    assert classifier.manifest.precision == "fp32"
    assert classifier.manifest.quantisation["recipe"] == "all but the feed-forward layers", "every recipe was tried"


def test_a_label_that_tells_nothing_is_refused(folder_of: Folder, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "lone")
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    kept = [row for row in rows if "rejection" not in row["intents"]]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    with pytest.raises(CorpusError, match="in train rejection stands in all texts or in none"):
        _fitted(folder_of(pretrained.EMBEDDED), folder)


def test_an_architecture_that_cannot_average_says_what_to_set(
    tiny_encoder: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    settings = DistilBertConfig(
        vocab_size=400, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
    )
    DistilBertModel(settings).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="cannot average the tokens of a distilbert model; set pooling: first"):
        _fitted(tmp_path, tiny_corpus)
    assert _fitted(tmp_path, tiny_corpus, "pooling=first").logits(["It rained."]).shape == (1, 4)
