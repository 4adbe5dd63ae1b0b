"""A pretrained encoder kept as it is, and logistic regression on its sentence embeddings.

The fitted coefficients become the last layer of a plain Hugging Face `AutoModelForSequenceClassification`, so that
export, bundle and runtime treat the result as they treat a fine-tuned encoder.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from training import pretrained
from training.config import FrozenConfig
from training.corpus import Corpus
from training.encoder import Encoder
from training.errors import CorpusError, EncoderError
from training.fitted import OnEpoch

SMALL = 0.1  # tanh and GELU are almost straight lines over a tenth of a state
LARGE = 1000.0  # a mean this many times itself leaves nothing of what a residual adds to it

Floats = npt.NDArray[np.float64]


def fit(config: FrozenConfig, corpus: Corpus, on_epoch: OnEpoch) -> Encoder:
    """Embeds train and fits a regression a label on it; one pass, so `on_epoch` is never called.

    Raises:
        EncoderError: the encoder cannot be found or loaded, or cannot pool as `pooling` says.
        CorpusError: a label stands in every text of train or in none.
    """
    _check(corpus)
    pretrained.determinism(config.seed)
    model, tokenizer = pretrained.load(config.encoder, config.max_length, 0.0, corpus)
    last = pretrained.last_layer(model)
    with torch.no_grad():
        _straighten(model)
        if config.pooling == "mean":
            _average(model, config.encoder)
    result = Encoder(model, tokenizer, config.max_length)
    features = _features(result, last, corpus.train.texts)
    weight, bias = _regression(features, corpus.train.truth, config.inverse_regularisation)
    with torch.no_grad():
        model.get_submodule(last).weight.copy_(torch.from_numpy(weight))
        model.get_submodule(last).bias.copy_(torch.from_numpy(bias))
    return result


def _check(corpus: Corpus) -> None:
    shares = dict(zip(corpus.labels, corpus.train.truth.mean(axis=0).tolist(), strict=True))
    if lone := [label for label, share in shares.items() if share in (0.0, 1.0)]:
        raise CorpusError(
            f"{corpus.folder}: in train {', '.join(lone)} stands in all texts or in none; logistic regression needs "
            "texts with each label and without it."
        )


def _straighten(model: Any) -> None:
    """Lets the pooled state through the head's dense layer almost as it is.

    That layer is new and random in most models. Where it is pretrained it served another purpose: all-MiniLM's cost a
    point of average precision on validation.
    """
    for name, module in model.named_modules():
        *above, own = name.split(".")
        if isinstance(module, torch.nn.Linear) and own == "dense" and not any(part.isdigit() for part in above):
            module.weight.copy_(SMALL * torch.eye(*module.weight.shape))
            if module.bias is not None:
                module.bias.zero_()


def _average(model: Any, name: str) -> None:
    """Pools the mean over the tokens (Reimers and Gurevych 2019, "Sentence-BERT"), where the model takes the first.

    ModernBERT has a setting for it. Models built like BERT get one more layer: no queries and no keys, so that each
    token attends to all alike; values as they are; nothing after that but the norms. On validation all-MiniLM's means
    reach macro-F1 0.67, its first token 0.58.
    """
    if hasattr(model.config, "classifier_pooling"):
        model.config.classifier_pooling = "mean"
        return
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    layer = copy.deepcopy(layers[-1]) if layers else torch.nn.Module()
    parts = dict(layer.named_modules())
    value = parts.get("attention.self.value") or parts.get("attention.self.value_proj")
    output = parts.get("attention.output.dense")
    if layers is None or value is None or output is None:
        raise EncoderError(
            f"encoder {name}: family frozen cannot average the tokens of a {model.config.model_type} model; "
            "set pooling: first."
        )
    for parameter in layer.parameters():
        parameter.zero_()
    for module in layer.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.fill_(1.0)
    torch.nn.init.eye_(value.weight)
    torch.nn.init.eye_(output.weight).mul_(LARGE)
    layers.append(layer)
    model.config.num_hidden_layers += 1


def _features(embedder: Encoder, last: str, texts: list[str]) -> Floats:
    """What enters the last layer (texts, features)."""
    layer = embedder.model.get_submodule(last)
    embedder.model.set_submodule(last, torch.nn.Identity())
    embedder.model.to("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return embedder.logits(texts)
    finally:
        embedder.model.set_submodule(last, layer)
        embedder.model.cpu()


def _regression(features: Floats, truth: npt.NDArray[np.int8], inverse_regularisation: float) -> tuple[Floats, Floats]:
    """Weight (labels, features) and bias (labels) of one regression a label, for features as they come.

    Fitted on standardised ones. Classes are not balanced: that cost calibration and gained nothing.
    """
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    fitted = [
        LogisticRegression(C=inverse_regularisation, max_iter=1000).fit(scaled, truth[:, i])
        for i in range(truth.shape[1])
    ]
    weight = np.concatenate([one.coef_ for one in fitted]) / scaler.scale_
    bias = np.concatenate([one.intercept_ for one in fitted]) - weight @ scaler.mean_
    return weight, bias
