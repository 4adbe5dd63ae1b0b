"""Texts leave the graph early where a lower layer is sure of them, and only there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import communique
from communique import bundle, golden
from communique.bundle import Manifest
from communique.classifier import Classifier
from training import corpus, exits, graph
from training.exits import Exit, Gate
from training.export import _golden_texts, _steady, export
from training.graph import LOGITS, Graph
from training.tensors import rows

HEADS, HIDDEN = 2, 32  # of the tiny encoder


@pytest.fixture(scope="module")
def texts(tiny_corpus: Path) -> list[str]:
    data = corpus.load(tiny_corpus)
    return [*data.test.texts, *data.validation.texts, "Oslo"]


@pytest.fixture(scope="module")
def full(exported: Path) -> bundle.Bundle:
    return bundle.read(exported, "fp32")


def _grown(full: bundle.Bundle, texts: list[str], scratch: Path) -> tuple[Graph, list[Exit]]:
    (scratch / "plain.onnx").write_bytes(full.model)
    grown = graph.fast(scratch / "plain.onnx", scratch, HEADS, HIDDEN)
    return grown, exits.grow(grown, Classifier(full)._tokenizer, texts, full.manifest, scratch / "watched.onnx")


def _answers(full: bundle.Bundle, grown: Graph, texts: list[str], names: list[str], scratch: Path) -> list[np.ndarray]:
    grown.save(scratch / "read.onnx", also=names[1:])
    return rows((scratch / "read.onnx").read_bytes(), Classifier(full)._tokenizer, texts, names)


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_text_has_its_exits_answer_if_that_is_far_from_another_and_else_the_last_layers(
    full: bundle.Bundle, texts: list[str], tmp_path: Path, task: str, share: float
) -> None:
    full = replace(full, manifest=replace(full.manifest, task=task))
    grown, [way] = _grown(full, texts, tmp_path)
    last, early = _answers(full, grown, texts, [LOGITS, way.logits], tmp_path)
    assert np.abs(last - early).min(axis=1).max() > 1e-3, "answers that are alike would prove nothing"
    distances = exits._distances(early, full.manifest)
    distance = {0.0: np.inf, 0.5: float(np.median(distances)), 1.0: 0.0}[share]
    leaves = distances >= np.float32(distance)
    assert leaves.mean() == pytest.approx(share, abs=0.1)
    exits.install(grown, [Gate(way, distance, share)], full.manifest)
    expected = np.where(leaves[:, None], early, last)
    [found] = _answers(full, grown, texts, [LOGITS], tmp_path)
    assert np.abs(found - expected).max() < 1e-5
    together = Classifier(replace(full, model=(tmp_path / "read.onnx").read_bytes()))._logits(texts)
    assert np.abs(together - expected).max() < 1e-5, "padding, and rows that are packed together"


def test_two_gates_one_above_the_other(full: bundle.Bundle, texts: list[str], tmp_path: Path) -> None:
    grown, [way] = _grown(full, texts, tmp_path)
    # a second exit above the first, on the same tensor, with its answer turned around
    weights = {part: grown.constants[f"exit/1/{part}/weights"] for part in ("queries", "inner", "inner_bias")}
    weights |= {part: -grown.constants[f"exit/1/{part}/weights"] for part in ("outer", "outer_bias")}
    other = Exit(2, exits._add_head(grown, "exit/2", grown.layers[1], weights, 1.0))
    last, early = _answers(full, grown, texts, [LOGITS, way.logits], tmp_path)
    distances = exits._distances(early, full.manifest)
    bars = [float(np.quantile(distances, 0.7)), float(np.quantile(exits._distances(-early, full.manifest), 0.4))]
    exits.install(grown, [Gate(way, bars[0], 0.3), Gate(other, bars[1], 0.4)], full.manifest)
    first = distances >= np.float32(bars[0])
    second = ~first & (exits._distances(-early, full.manifest) >= np.float32(bars[1]))
    assert first.any() and second.any() and (~first & ~second).any()
    expected = np.select([first[:, None], second[:, None]], [early, -early], last)
    [found] = _answers(full, grown, texts, [LOGITS], tmp_path)
    assert np.abs(found - expected).max() < 1e-5


def _manifest(full: bundle.Bundle, **changes: Any) -> Manifest:
    return replace(full.manifest, temperature=2.0, **changes)


def test_distances_let_as_many_decisions_change_as_are_allowed(full: bundle.Bundle) -> None:
    numbers = np.random.default_rng(0)
    last = numbers.normal(0, 3, (2000, 4)).astype(np.float32)
    ways, answers = [Exit(2, "a"), Exit(3, "b")], [last + numbers.normal(0, 1, last.shape) for _ in range(2)]
    manifest = _manifest(full, thresholds=(0.3, 0.5, 0.6, 0.4))
    gates = exits.choose(ways, answers, last, manifest)
    assert [gate.exit for gate in gates] == ways
    there, changed = np.ones(len(last), dtype=bool), 0
    bars = (2 * np.log(np.array(manifest.thresholds) / (1 - np.array(manifest.thresholds)))).astype(np.float32)
    for gate, found in zip(gates, answers, strict=True):
        leaving = there & (np.abs(found - bars).min(axis=1) >= gate.distance)
        at = ((found >= bars) != (last >= bars))[leaving].sum()
        assert gate.share == leaving.mean()
        assert leaving.any() and at <= exits.FLIPS / 2 * last.size
        there &= ~leaving
        changed += at
    assert changed >= exits.FLIPS * last.size - 2, "as far as it goes"
    assert sum(gate.share for gate in gates) == pytest.approx(1 - there.mean())


def test_an_exit_that_knows_nothing_is_left_out(full: bundle.Bundle) -> None:
    last = np.random.default_rng(0).normal(0, 3, (500, 4)).astype(np.float32)
    ways = [Exit(2, "a"), Exit(3, "b")]
    gates = exits.choose(ways, [-last, last], last, _manifest(full))
    assert [gate.exit for gate in gates] == ways[1:]


def test_exits_are_after_a_third_a_half_and_two_thirds(full: bundle.Bundle, tmp_path: Path) -> None:
    (tmp_path / "plain.onnx").write_bytes(full.model)
    grown = graph.fast(tmp_path / "plain.onnx", tmp_path, HEADS, HIDDEN)
    assert exits.watched(grown) == {1: grown.layers[1]}
    for count, expected in ((6, [2, 3, 4]), (12, [4, 6, 8]), (3, [1, 2]), (1, [])):
        grown.layers = [grown.layers[-1]] * count
        assert list(exits.watched(grown)) == expected


def test_where_a_residual_goes_past_no_text_leaves(full: bundle.Bundle, tmp_path: Path) -> None:
    (tmp_path / "plain.onnx").write_bytes(full.model)
    grown = graph.fast(tmp_path / "plain.onnx", tmp_path, HEADS, HIDDEN)
    before = grown.makers()[grown.layers[1]].input[0]
    for node in grown.users()[grown.layers[1]]:
        if node.op_type in ("Add", "Slice"):  # the latter for the first token alone
            node.input[[*node.input].index(grown.layers[1])] = before
    assert exits.watched(grown) == {}


def test_few_texts_prove_nothing(full: bundle.Bundle) -> None:
    assert exits.provable(1403 * 4) and not exits.provable(8 * 4)
    assert "leaving" not in full.manifest.quantisation, "of the tiny corpus, with its eight texts"


def test_the_bundle_says_who_left_and_whole_lets_nobody(leaving: Path, tiny_run: Path, tmp_path: Path) -> None:
    report = bundle.read(leaving).manifest.quantisation
    assert report["accepted"] and 0 < report["leaving"]["after layer 1"] <= 1
    assert "Compress" in {node.op_type for node in Graph.read(leaving / bundle.MODELS["int8"]).nodes}
    shutil.copytree(leaving, whole := tmp_path / "bundle")
    export(tiny_run, whole, early=False)
    assert "leaving" not in bundle.read(whole).manifest.quantisation, "the bundle that was there is another one"
    assert "Compress" not in {node.op_type for node in Graph.read(whole / bundle.MODELS["int8"]).nodes}


def test_an_answer_does_not_hang_on_its_company(leaving: Path, texts: list[str]) -> None:
    model = communique.load(leaving, precision="int8")
    alone = np.concatenate([model.predict_proba([text]) for text in texts])
    assert (alone == model.predict_proba(texts)).all()


def test_golden_texts_are_answered_alike_wherever_they_leave(
    leaving: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = corpus.load(tiny_corpus).validation
    full, small = (communique.load(leaving, precision=name) for name in ("fp32", "int8"))
    gaps = np.abs(full.predict_proba(validation.texts) - small.predict_proba(validation.texts)).max(axis=1)
    monkeypatch.setitem(golden.TOLERANCE, "int8", 2 * float(np.median(gaps)))
    steady = _steady(small, full.predict_proba(validation.texts), validation.texts)
    assert (steady == (gaps <= np.median(gaps))).all() and 12 <= steady.sum() < len(steady)
    chosen = _golden_texts(validation, steady)
    assert len(chosen) == 12 and {validation.texts.index(text) for text in chosen} <= {*np.flatnonzero(steady)}
    assert len(_golden_texts(validation, np.zeros_like(steady))) == 12, "where few are, any will do"
