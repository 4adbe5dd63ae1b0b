"""The artefact format: what is written is read back, and what is wrong is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from communique import bundle, golden
from communique.bundle import FORMAT, Manifest
from communique.errors import BundleError


def test_an_exported_bundle_is_whole(exported: Path) -> None:
    manifest = bundle.verify(exported)
    assert manifest.format == FORMAT
    assert manifest.labels == ("proposal", "condition", "rejection", "reaction")
    assert "golden texts answered" in golden.check(exported)
    names = {file.relative_to(exported).as_posix() for file in exported.rglob("*") if file.is_file()}
    assert names == {
        "communique.json", "SHA256SUMS", "README.md", "config.json", "tokenizer.json", "tokenizer_config.json",
        "model.safetensors", "onnx/model.onnx", "onnx/model_quantized.onnx",
    }  # fmt: skip


def test_a_manifest_survives_its_file(exported: Path) -> None:
    text = (exported / "communique.json").read_text()
    assert Manifest.from_json(text, "x").to_json() == text


@pytest.mark.parametrize("name", ["tokenizer.json", "communique.json", "onnx/model.onnx", "onnx/model_quantized.onnx"])
def test_a_truncated_file_is_refused_by_name(bundle_copy: Path, name: str) -> None:
    file = bundle_copy / name
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(BundleError, match=name):
        bundle.read(bundle_copy, "fp32" if name.endswith("model.onnx") else "int8")
    with pytest.raises(BundleError, match=name):
        bundle.verify(bundle_copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "communique.json", "SHA256SUMS"])
def test_a_missing_file_is_refused_by_name(bundle_copy: Path, name: str) -> None:
    (bundle_copy / name).unlink()
    with pytest.raises(BundleError, match=name):
        bundle.read(bundle_copy)


def test_a_newer_format_is_refused_with_the_cure(bundle_copy: Path) -> None:
    _edit(bundle_copy, format=FORMAT + 1)
    with pytest.raises(BundleError, match=f"format {FORMAT + 1}.*Upgrade"):
        bundle.read(bundle_copy)


def test_a_manifest_of_format_1_is_read_by_every_later_version() -> None:
    # as version 0.1.0 wrote it; this text stays when FORMAT rises
    first = """{"name": "minilm", "version": "3fa9c120", "labels": ["proposal", "rejection"], "task": "multi_label",
    "temperature": 1.25, "thresholds": [0.5, 0.4], "max_length": 128, "precision": "int8", "format": 1,
    "quantisation": {"accepted": true}, "corpus": {"name": "statements"}, "run": {"seed": 1},
    "encoder": {"name": "x"}, "figures": {"test/macro_f1": 0.8},
    "golden": [{"text": "We refuse.", "probabilities": [0.1, 0.9]}]}"""
    manifest = Manifest.from_json(first, "x")
    assert (manifest.format, manifest.temperature, manifest.thresholds) == (1, 1.25, (0.5, 0.4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": [0.5]}, "4 labels but 1 thresholds"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "x"}, "wrong type"),
        ({"labels": []}, "labels"),
        ({"task": "regression"}, "task"),
        ({"precision": "int4"}, "precision"),
        ({"max_length": 1}, "max_length"),
        ({"colour": "red"}, "unknown colour"),
        ({"format": "1"}, "no format number"),
    ],
)
def test_a_wrong_manifest_is_refused(bundle_copy: Path, change: dict[str, object], message: str) -> None:
    _edit(bundle_copy, **change)
    with pytest.raises(BundleError, match=message):
        bundle.read(bundle_copy)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\\b"])
def test_a_name_that_leads_out_is_refused(bundle_copy: Path, name: str) -> None:
    with (bundle_copy / "SHA256SUMS").open("a") as stream:
        stream.write(f"{'0' * 64}  {name}\n")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        bundle.read(bundle_copy)


def test_a_symbolic_link_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    file = bundle_copy / "tokenizer.json"
    moved = file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(moved)
    with pytest.raises(BundleError, match="symbolic link"):
        bundle.read(bundle_copy)


def test_an_oversize_file_is_refused_unread(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_BYTES", 1000)
    with pytest.raises(BundleError, match="more than the 1,000 allowed"):
        bundle.read(bundle_copy)


def test_a_stowaway_is_found(bundle_copy: Path) -> None:
    (bundle_copy / "evil.py").write_text("")
    with pytest.raises(BundleError, match=r"evil\.py"):
        bundle.verify(bundle_copy)


def test_no_folder_and_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        bundle.read(tmp_path / "absent")
    with pytest.raises(BundleError, match="not a communique bundle"):
        bundle.read(tmp_path)


def test_a_failed_write_leaves_the_old_bundle(bundle_copy: Path, tmp_path: Path) -> None:
    before = (bundle_copy / "SHA256SUMS").read_text()
    manifest = bundle.read(bundle_copy).manifest
    with pytest.raises(FileNotFoundError):
        bundle.write(bundle_copy, manifest, {"tokenizer.json": tmp_path / "absent"})
    assert (bundle_copy / "SHA256SUMS").read_text() == before
    assert bundle.verify(bundle_copy) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_not_replaced(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(BundleError, match="will not be replaced"):
        bundle.write(tmp_path, bundle.read(exported).manifest, {})


def test_changed_answers_are_found_by_the_golden_texts(bundle_copy: Path) -> None:
    manifest = json.loads((bundle_copy / "communique.json").read_text())
    first = manifest["golden"][0]
    first["probabilities"] = [1 - p for p in first["probabilities"]]
    (bundle_copy / "communique.json").write_text(json.dumps(manifest))
    bundle.write_sums(bundle_copy)
    with pytest.raises(BundleError, match="golden text"):
        golden.check(bundle_copy)


def _edit(folder: Path, **changes: object) -> None:
    file = folder / "communique.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    bundle.write_sums(folder)
