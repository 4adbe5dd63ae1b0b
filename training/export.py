"""A finished run to a verified bundle: ONNX in full and in eight bits, thresholds, hashes, golden texts."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score

from communique import bundle, golden
from communique.bundle import Manifest
from communique.classifier import Classifier
from communique.errors import BundleError
from training import corpus as corpora
from training import run
from training.card import model_card
from training.config import EncoderConfig
from training.console import say, warn
from training.corpus import Split
from training.encoder import Encoder, source_of
from training.errors import RunError
from training.train import restore

MAX_FLIPS = 0.005  # share of decisions that eight bits may change on validation
MAX_F1_DROP = 0.003
PARITY = 1e-3  # of probabilities, torch against ONNX in float32
GOLDEN = 12
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def export(folder: Path, output: Path) -> Path:
    """Writes the bundle of the finished run in `folder` to `output`, and re-reads it to prove it.

    A whole bundle of the same run that is there already is reused.

    Raises:
        RunError: the run is not finished, or its family cannot be exported.
        BundleError: what was written does not answer as the trained model does.
    """
    if _is_current(output, (run.finished(folder) or {}).get("key")):
        say(f"{output}: exported already from this run; reused.")
        return output
    fitted, calibration, settings = restore(folder)
    if not isinstance(fitted, Encoder) or not isinstance(settings, EncoderConfig):
        raise RunError(f"{folder}: family {settings.family} has no ONNX form; export a run of family encoder.")
    record = run.finished(folder) or {}
    data = corpora.load(settings.corpus)
    if data.sha256 != record["corpus"]["sha256"]:
        raise RunError(f"{folder}: {settings.corpus} has changed since this run was trained on it; train again.")
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    base = Manifest(
        name=settings.name,
        version=record["key"],
        labels=data.labels,
        task=data.task,
        temperature=calibration.temperature,
        thresholds=calibration.thresholds,
        max_length=settings.max_length,
        precision="fp32",
        corpus=record["corpus"],
        run={"config": settings.name, "seed": settings.seed, "mlflow_run_id": record["mlflow_run_id"]},
        encoder=source_of(settings.encoder)[1],
        figures={name: value for name, value in figures.items() if name.startswith("test/")},
    )
    with tempfile.TemporaryDirectory(prefix="communique-export-") as scratch:
        files = _files(fitted, Path(scratch))
        trial = bundle.write(Path(scratch) / "trial", base, files)
        say("checking ONNX against the trained model on validation …")
        report = _quantisation(fitted, trial, data.validation, data.labels)
        precision = "int8" if report["accepted"] else "fp32"
        if not report["accepted"]:
            warn(f"int8 is not the default of this bundle: {report['reason']}")
        manifest = _with(base, precision=precision, quantisation=report)
        answers = Classifier(bundle.read(bundle.write(trial, manifest, files)))
        texts = _golden_texts(data.validation)
        pairs = zip(texts, answers.predict_proba(texts), strict=True)
        proofs = tuple({"text": text, "probabilities": [round(float(p), 6) for p in row]} for text, row in pairs)
        manifest = _with(manifest, golden=proofs)
        files["README.md"] = model_card(manifest).encode()
        bundle.write(output, manifest, files)
    say(f"{output}: {golden.check(output)}")
    return output


def _is_current(output: Path, key: str | None) -> bool:
    try:
        return bundle.verify(output).version == key
    except BundleError:
        return False


def _with(manifest: Manifest, **changes: Any) -> Manifest:
    return Manifest(**{**{name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}, **changes})


def _files(fitted: Encoder, scratch: Path) -> dict[str, Path | bytes]:
    fitted.save(scratch / "model")
    plain, small = scratch / "model.onnx", scratch / "model_quantized.onnx"
    say("writing ONNX …")
    _to_onnx(fitted, plain)
    _to_int8(fitted, plain, small)
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    return {
        **{name: scratch / "model" / name for name in names},
        bundle.MODELS["fp32"]: plain,
        bundle.MODELS["int8"]: small,
    }


def _to_onnx(fitted: Encoder, path: Path) -> None:
    # The tracing exporter with plain attention gives the graph that onnxruntime's transformer optimiser
    # knows how to fuse; torch's newer exporter gives one that it does not (measured: half the fusions).
    fitted.model.set_attn_implementation("eager")
    example = fitted.tokenizer(["One.", "Two words and some more."], padding=True, return_tensors="pt")
    names = [name for name in _INPUTS if name in example]
    axes = {name: {0: "batch", 1: "sequence"} for name in names} | {"logits": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracer and deprecation notes; parity is measured below
        torch.onnx.export(
            fitted.model, (), path, kwargs={name: example[name] for name in names}, input_names=names,
            output_names=["logits"], dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip


def _to_int8(fitted: Encoder, plain: Path, small: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    settings = fitted.model.config
    fused = small.with_name("fused.onnx")
    optimised = optimizer.optimize_model(
        str(plain), model_type="bert", num_heads=settings.num_attention_heads, hidden_size=settings.hidden_size,
        opt_level=0,
    )  # fmt: skip
    optimised.save_model_to_file(str(fused))
    logging.disable(logging.WARNING)  # it advises shape inference, which fails on fused operators
    try:
        # Per channel halves the error of one scale a matrix; signed weights are twice as fast with VNNI.
        quantize_dynamic(
            fused, small, per_channel=True, weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)


def _quantisation(fitted: Encoder, trial: Path, validation: Split, labels: Sequence[str]) -> dict[str, Any]:
    """What fp32 ONNX and int8 change on validation against torch, and whether int8 may be the default."""
    full, small = (Classifier(bundle.read(trial, precision)) for precision in ("fp32", "int8"))
    texts = validation.texts
    logits = fitted.logits(texts)
    reference = full.predict_proba(texts)
    trained = _as_probabilities(logits, full)
    gap = float(np.abs(reference - trained).max())
    if not gap <= PARITY:
        raise RunError(f"the ONNX model differs from the trained one by {gap:.4f} on validation; not exported.")
    quantised = small.predict_proba(texts)
    before, after = full.predict(texts), small.predict(texts)
    flips = float((np.asarray(before) != np.asarray(after)).mean())
    truth = validation.truth if full.manifest.task == "multi_label" else validation.truth.argmax(axis=1)
    names = before if full.manifest.task == "multi_label" else [labels.index(label) for label in before]
    others = after if full.manifest.task == "multi_label" else [labels.index(label) for label in after]
    drop = float(
        f1_score(truth, names, average="macro", zero_division=0.0)
        - f1_score(truth, others, average="macro", zero_division=0.0)
    )
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
        "largest_change": round(float(np.abs(quantised - reference).max()), 5),
        "fp32_gap": round(gap, 7),
        "texts": len(texts),
    }


def _as_probabilities(logits: Any, classifier: Classifier) -> Any:
    from training.calibrate import probabilities

    return probabilities(logits, classifier.manifest.temperature, classifier.manifest.task)


def _golden_texts(validation: Split) -> list[str]:
    """Texts that spread over the label sets, in the order of the file."""
    chosen: dict[tuple[int, ...], list[str]] = {}
    for text, row in zip(validation.texts, validation.truth.tolist(), strict=True):
        chosen.setdefault(tuple(row), []).append(text)
    spread = [texts[i] for i in range(GOLDEN) for texts in chosen.values() if i < len(texts)]
    return spread[:GOLDEN]
