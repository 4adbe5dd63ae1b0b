"""The exported model answers as the trained one, and as other readers of the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import communique
from training import calibrate, config, corpus
from training.errors import RunError
from training.export import MODULES, export, exporter
from training.train import restore, train


def test_onnx_answers_as_torch(exported: Path, tiny_run: Path, tiny_corpus: Path) -> None:
    fitted, calibration, _ = restore(tiny_run)
    texts = corpus.load(tiny_corpus).test.texts
    trained = calibrate.probabilities(fitted.logits(texts), calibration.temperature, "multi_label")
    found = communique.load(exported, precision="fp32").predict_proba(texts)
    assert np.abs(found - trained).max() < 1e-4


def test_transformers_reads_the_folder(exported: Path, tiny_corpus: Path) -> None:
    from transformers import pipeline

    texts = corpus.load(tiny_corpus).test.texts[:12]
    other = pipeline("text-classification", model=str(exported), top_k=None, function_to_apply="none", device="cpu")
    classifier = communique.load(exported, precision="fp32")
    temperature = classifier.manifest.temperature
    for text, scores in zip(texts, other(texts), strict=True):
        expected = {item["label"]: 1 / (1 + np.exp(-item["score"] / temperature)) for item in scores}
        assert classifier(text).probabilities == pytest.approx(expected, abs=1e-4)


def test_the_quantisation_report_is_true(exported: Path, tiny_corpus: Path) -> None:
    report = json.loads((exported / "communique.json").read_text())["quantisation"]
    texts = corpus.load(tiny_corpus).validation.texts
    full, small = (communique.load(exported, precision=name) for name in ("fp32", "int8"))
    assert report["flips"] == pytest.approx((full.predict(texts) != small.predict(texts)).mean(), abs=1e-5)
    gap = np.abs(full.predict_proba(texts) - small.predict_proba(texts)).max()
    assert report["largest_change"] == pytest.approx(gap, abs=1e-4)


def test_int8_that_changes_answers_is_not_the_default(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.quantise.MAX_FLIPS", -1.0)
    manifest = communique.load(export(tiny_run, tmp_path / "bundle")).manifest
    assert manifest.precision == "fp32" and "flip" in manifest.quantisation["reason"]
    assert manifest.quantisation["recipe"] == "all but the feed-forward layers", "every recipe was tried"


def test_only_texts_that_fit_the_window_prove_an_export(tiny_config: Path, tmp_path: Path) -> None:
    def exported_with(max_length: int) -> Path:
        run = train(config.load(tiny_config, [f"max_length={max_length}", "epochs=6"]), tmp_path / "run", track=False)
        return export(run, tmp_path / "bundle")

    assert communique.load(exported_with(16)).manifest.max_length == 16
    with pytest.raises(RunError, match="no validation text fits into max_length 8"):
        exported_with(8)


def test_a_whole_bundle_of_the_same_run_is_reused(tiny_run: Path, tmp_path: Path) -> None:
    file = export(tiny_run, tmp_path / "bundle") / "communique.json"
    first = file.stat().st_mtime_ns
    export(tiny_run, tmp_path / "bundle")
    assert file.stat().st_mtime_ns == first
    (tmp_path / "bundle" / "tokenizer.json").unlink()
    export(tiny_run, tmp_path / "bundle")
    assert file.stat().st_mtime_ns > first


def test_a_bundle_that_other_code_made_is_made_anew(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = export(tiny_run, tmp_path / "bundle") / "communique.json"
    before = json.loads(file.read_text())["run"]["exporter"]
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99" if name == "onnxruntime" else "1")
    newer = exporter()
    assert newer != before == json.loads(file.read_text())["run"]["exporter"]
    sources = tmp_path / "training"
    sources.mkdir()
    for name in MODULES:
        (sources / name).write_text("# the code of another day")
    monkeypatch.setattr("training.export.__file__", str(sources / "export.py"))
    assert exporter() != newer
    export(tiny_run, tmp_path / "bundle")
    assert json.loads(file.read_text())["run"]["exporter"] == exporter()


def test_a_baseline_says_that_it_cannot_be_exported(tiny_corpus: Path, tmp_path: Path) -> None:
    settings = config.load("configs/tfidf.yaml", [f"corpus={tiny_corpus}", "min_count=1"])
    folder = train(settings, tmp_path / "run", track=False)
    with pytest.raises(RunError, match="family baseline has no ONNX form"):
        export(folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
