"""A finished run to a verified bundle: ONNX in full and in eight bits, thresholds, hashes, golden texts."""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from communique import bundle, golden
from communique.bundle import Manifest
from communique.classifier import Classifier, Floats
from communique.errors import BundleError
from training import corpus as corpora
from training import run
from training.calibrate import probabilities
from training.card import model_card
from training.checkpoint import explained
from training.config import BaselineConfig
from training.console import say, warn
from training.corpus import Split
from training.encoder import Encoder
from training.errors import RunError
from training.pretrained import source_of
from training.quantise import quantise
from training.train import restore

PARITY = 1e-3  # of probabilities, torch against ONNX in float32
GOLDEN = 12
# the modules that make a bundle
MODULES = ("export.py", "graph.py", "tensors.py", "heads.py", "exits.py", "quantise.py", "card.py")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def export(folder: Path, output: Path, *, early: bool = True) -> Path:
    """Writes the bundle of the finished run in `folder` to `output`, and re-reads it to prove it.

    A whole bundle that is there already is reused, if the same code made it from the same run.

    Args:
        folder: of the run.
        output: where the bundle goes.
        early: whether texts may leave the eight-bit model early, see `training.exits`.

    Raises:
        RunError: the run is not finished, its family cannot be exported, or the disk is full.
        BundleError: what was written does not answer as the trained model does.
    """
    if _is_current(output, (run.finished(folder) or {}).get("key"), early):
        say(f"{output}: exported already from this run; reused.")
        return output
    fitted, calibration, settings = restore(folder)
    if not isinstance(fitted, Encoder) or isinstance(settings, BaselineConfig):
        raise RunError(f"{folder}: family {settings.family} has no ONNX form; export one of family encoder or frozen.")
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
        run={
            "config": settings.name,
            "seed": settings.seed,
            "mlflow_run_id": record["mlflow_run_id"],
            "exporter": exporter(),
            "early": early,
        },
        encoder=source_of(settings.encoder)[1],
        figures={name: value for name, value in figures.items() if name.startswith("test/")},
    )
    with explained(output), tempfile.TemporaryDirectory(prefix="communique-export-") as scratch:
        files = _files(fitted, Path(scratch))
        trial = bundle.write(Path(scratch) / "trial", base, files)
        say("checking ONNX against the trained model on validation …")
        exact = Classifier(bundle.read(trial, "fp32"))
        gap = _check_parity(fitted, exact, data.validation.texts)
        shape = fitted.model.config
        heads, hidden = shape.num_attention_heads, shape.hidden_size
        expected = exact.predict_proba(data.validation.texts)
        small, report = quantise(
            exact, expected, heads, hidden, data.train, data.validation, Path(scratch), early=early
        )
        files[bundle.MODELS["int8"]] = small
        if not report["accepted"]:
            warn(f"int8 is not the default of this bundle: {report['reason']}")
        precision = "int8" if report["accepted"] else "fp32"
        manifest = replace(base, precision=precision, quantisation={**report, "fp32_gap": round(gap, 7)})
        answers = Classifier(bundle.read(bundle.write(trial, manifest, files)))
        texts = _golden_texts(data.validation, _steady(answers, expected, data.validation.texts))
        pairs = zip(texts, answers.predict_proba(texts), strict=True)
        proofs = tuple({"text": text, "probabilities": [round(float(p), 6) for p in row]} for text, row in pairs)
        manifest = replace(manifest, golden=proofs)
        files["README.md"] = model_card(manifest).encode()
        bundle.write(output, manifest, files)
    say(f"{output}: {golden.check(output)}")
    return output


def _is_current(output: Path, key: str | None, early: bool) -> bool:
    try:
        found = bundle.verify(output)
    except BundleError:
        return False
    return found.version == key and (found.run.get("exporter"), found.run.get("early")) == (exporter(), early)


def exporter() -> str:
    """What makes a bundle out of a run, as eight digits: the code of these modules and the libraries they call."""
    parts = [(Path(__file__).parent / name).read_bytes() for name in MODULES]
    parts += [f"{name} {metadata.version(name)}".encode() for name in ("onnx", "onnxruntime", "torch", "transformers")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:8]


def _files(fitted: Encoder, scratch: Path) -> dict[str, Path | bytes]:
    fitted.save(scratch / "model")
    say("writing ONNX …")
    _to_onnx(fitted, scratch / "model.onnx")
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    return {**{name: scratch / "model" / name for name in names}, bundle.MODELS["fp32"]: scratch / "model.onnx"}


def _to_onnx(fitted: Encoder, path: Path) -> None:
    # The tracing exporter with plain attention gives the graph that training/graph.py knows how to rewrite;
    # torch's newer exporter gives one that onnxruntime's optimiser does not recognise (measured: half the fusions).
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


def _check_parity(fitted: Encoder, exported: Classifier, texts: list[str]) -> float:
    """Largest difference of a probability between ONNX and torch; an error where it is more than rounding."""
    manifest = exported.manifest
    # The runtime reads a longer text in windows, the trained model only its beginning.
    lengths = [len(ids) for ids in fitted.tokenizer(texts)["input_ids"]]
    texts = [text for text, length in zip(texts, lengths, strict=True) if length <= manifest.max_length]
    if not texts:
        raise RunError(f"no validation text fits into max_length {manifest.max_length}, so nothing proves the export.")
    trained = probabilities(fitted.logits(texts), manifest.temperature, manifest.task)
    gap = float(np.abs(exported.predict_proba(texts) - trained).max())
    if not gap <= PARITY:
        raise RunError(f"the ONNX model differs from the trained one by {gap:.4f} on validation; not exported.")
    return gap


def _steady(answers: Classifier, expected: Floats, texts: list[str]) -> npt.NDArray[np.bool_]:
    """Whether the full model answers a text alike: another processor's arithmetic may let it leave elsewhere."""
    difference = np.abs(answers.predict_proba(texts) - expected).max(axis=1)
    return np.asarray(difference <= golden.TOLERANCE[answers.manifest.precision] / 2)


def _golden_texts(validation: Split, steady: npt.NDArray[np.bool_]) -> list[str]:
    """Texts that spread over the label sets, in the order of the file; steady ones, where there are enough."""
    chosen: dict[tuple[int, ...], list[str]] = {}
    for text, row, wanted in zip(validation.texts, validation.truth.tolist(), steady, strict=True):
        if wanted or steady.sum() < GOLDEN:
            chosen.setdefault(tuple(row), []).append(text)
    spread = [texts[i] for i in range(GOLDEN) for texts in chosen.values() if i < len(texts)]
    return spread[:GOLDEN]
