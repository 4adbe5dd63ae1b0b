"""Eight-bit models that are proved: the smallest recipe whose answers on validation are those of the full model.

Dynamic quantisation (weights per channel, activations on the fly) over a graph that was fused first. What a
recipe leaves in full precision are matrices whose inputs have outliers that 256 steps cannot hold; in BERT
encoders these are the feed-forward outputs (Bondarenko et al. 2021, "Understanding and Overcoming the Challenges
of Efficient Transformer Quantization").
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from sklearn.metrics import f1_score

from communique.bundle import Bundle
from communique.classifier import Classifier, Floats
from training.console import say
from training.corpus import Split

MAX_FLIPS = 0.005  # share of decisions that eight bits may change on validation
MAX_F1_DROP = 0.003

# Smallest first; a pattern names the nodes that stay in full precision, in BERT's and in ModernBERT's words.
RECIPES = (
    ("all matrices", None),
    ("all but the feed-forward outputs", r"layer\.\d+/output/dense|layers\.\d+/mlp/Wo"),
    # what the lowest layers get wrong, all those above them build on
    (
        "all but the feed-forward outputs and the two lowest layers",
        r"layer\.\d+/output/dense|layers\.\d+/mlp/Wo|layers?\.[01]/",
    ),
    ("all but the feed-forward layers", r"layer\.\d+/(?:intermediate|output)/dense|layers\.\d+/mlp/W[io]"),
)


def quantise(full: Bundle, heads: int, hidden: int, validation: Split, scratch: Path) -> tuple[bytes, dict[str, Any]]:
    """Tries the recipes in order and takes the first that keeps the answers.

    Args:
        full: a bundle read in fp32.
        heads, hidden: attention heads and hidden size, for the fusion.
        validation: texts and truth to judge by.
        scratch: a folder for intermediate files.

    Returns:
        The model, and a report: recipe, accepted, reason (why not), flips (share of changed decisions),
        macro_f1_drop, largest_change (of a probability), texts. Where no recipe is accepted, the last one's.
    """
    plain, fused, small = (scratch / name for name in ("plain.onnx", "fused.onnx", "small.onnx"))
    plain.write_bytes(full.model)
    optimised = optimizer.optimize_model(
        str(plain), model_type="bert", num_heads=heads, hidden_size=hidden, opt_level=0
    )
    optimised.save_model_to_file(str(fused))
    names = [node.name for node in onnx.load(fused, load_external_data=False).graph.node]
    expected = Classifier(full).predict_proba(validation.texts)
    model, report = b"", dict[str, Any]()
    for recipe, pattern in RECIPES:
        kept = [name for name in names if pattern and re.search(pattern, name)]
        if pattern and not kept and model:
            continue  # an architecture with other names: this recipe is the one before
        _dynamic(fused, small, kept)
        model = small.read_bytes()
        report = {"recipe": recipe, **_judged(expected, Classifier(replace(full, model=model)), validation)}
        say(f"  int8, {recipe}: {len(model) / 2**20:.1f} MiB, {report['flips']:.2%} of the decisions flip")
        if report["accepted"]:
            break
    return model, report


def _dynamic(source: Path, target: Path, kept: list[str]) -> None:
    logging.disable(logging.WARNING)  # it advises shape inference, which fails on fused operators
    try:
        # Per channel halves the error of one scale a matrix; signed weights are twice as fast with VNNI.
        quantize_dynamic(
            source, target, per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=kept,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)


def _judged(expected: Floats, small: Classifier, validation: Split) -> dict[str, Any]:
    """The report on one recipe, against the full model's probabilities (texts, labels)."""
    found = small.predict_proba(validation.texts)
    decided = [small._decide(values) for values in (expected, found)]
    flips = float((decided[0] != decided[1]).mean())
    scores = [f1_score(validation.truth, one, average="macro", zero_division=0.0) for one in decided]
    drop = float(scores[0] - scores[1])
    reason = None
    if flips > MAX_FLIPS:
        reason = f"{flips:.2%} of the decisions on validation flip, more than {MAX_FLIPS:.1%}"
    elif drop > MAX_F1_DROP:
        reason = f"macro-F1 on validation falls by {drop:.4f}, more than {MAX_F1_DROP}"
    return {
        "accepted": reason is None,
        "reason": reason,
        "flips": round(flips, 5),
        "macro_f1_drop": round(drop, 5),
        "largest_change": round(float(np.abs(found - expected).max()), 5),
        "texts": len(validation),
    }
