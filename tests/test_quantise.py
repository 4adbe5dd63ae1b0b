"""The graph is rewritten without changing an answer, and eight bits are rounded as well as they can be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import communique
from communique import bundle
from communique.classifier import Classifier
from training import corpus, graph, quantise
from training.graph import Graph

HEADS, HIDDEN = 2, 32  # of the tiny encoder


@pytest.fixture(scope="module")
def texts(tiny_corpus: Path) -> list[str]:
    data = corpus.load(tiny_corpus)
    return [*data.test.texts, *data.validation.texts, "Oslo", " ".join(data.test.texts[:6])]


@pytest.fixture
def plain(exported: Path, tmp_path: Path) -> Path:
    (tmp_path / "plain.onnx").write_bytes(bundle.read(exported, "fp32").model)
    return tmp_path / "plain.onnx"


def _answers(exported: Path, model: Path, texts: list[str]) -> np.ndarray:
    return Classifier(replace(bundle.read(exported, "fp32"), model=model.read_bytes())).predict_proba(texts)


def test_a_rewritten_graph_gives_the_same_answers(
    exported: Path, plain: Path, tmp_path: Path, texts: list[str]
) -> None:
    graph.fast(plain, tmp_path, HEADS, HIDDEN).save(tmp_path / "fast.onnx")
    expected = communique.load(exported, precision="fp32").predict_proba(texts)
    assert np.abs(_answers(exported, tmp_path / "fast.onnx", texts) - expected).max() < 1e-5


def test_attention_is_plain_and_the_last_layer_is_for_the_first_token(plain: Path, tmp_path: Path) -> None:
    rewritten = graph.fast(plain, tmp_path, HEADS, HIDDEN)
    rewritten.save(tmp_path / "fast.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "fast.onnx").graph.node)
    assert kinds["Softmax"] == 2 and not kinds["MultiHeadAttention"] and not kinds["SkipLayerNormalization"]
    first = [node.name for node in rewritten.matrices() if node.name.endswith("/first")]
    kept = {name.split("/first")[0].rpartition("layer.1/")[2] for name in first}
    assert {"attention/self/query/MatMul", "intermediate/dense/MatMul", "output/dense/MatMul"} <= kept
    assert not any("key" in name or "value" in name or "layer.0" in name for name in first)


def test_a_model_that_reads_every_token_keeps_its_last_layer(
    exported: Path, plain: Path, tmp_path: Path, texts: list[str]
) -> None:
    model = onnx.load(plain)
    [choice] = [node for node in model.graph.node if node.op_type == "Gather" and "pooler" in node.name]
    choice.op_type = "ReduceMean"
    del choice.input[1:], choice.attribute[:]
    choice.attribute.extend([onnx.helper.make_attribute("axes", [1]), onnx.helper.make_attribute("keepdims", 0)])
    onnx.save(model, plain)
    rewritten = graph.fast(plain, tmp_path, HEADS, HIDDEN)
    rewritten.save(tmp_path / "fast.onnx")
    assert not any(node.name.endswith("/first") for node in rewritten.nodes)
    some = [text for text in texts if len(text) == len(texts[0])][:1]  # a mean over padding would not be the same
    expected = _answers(exported, plain, some)
    assert np.abs(_answers(exported, tmp_path / "fast.onnx", some) - expected).max() < 1e-5


def test_eight_bits_are_all_matrices_and_the_word_embeddings(exported: Path) -> None:
    small = Graph.read(exported / "onnx" / "model_quantized.onnx")
    assert Counter(node.op_type for node in small.nodes)["MatMulIntegerToFloat"] == 14, "six a layer and two above"
    large = [name for name, value in small.constants.items() if value.ndim == 2 and value.dtype == np.float32]
    assert {small.constants[name].shape for name in large} <= {(400, 1), (2, HIDDEN), (64, HIDDEN)}


def test_rounding_makes_good_what_it_gets_wrong() -> None:
    numbers = np.random.default_rng(0)
    rows = (numbers.normal(size=(2000, 200)) @ numbers.normal(size=(200, 200)) * numbers.uniform(0.1, 3, 200)).astype(
        np.float32
    )
    matrix = numbers.normal(size=(200, 30)).astype(np.float32)
    whole, scales = quantise._rounded(matrix, rows.T @ rows / len(rows))
    assert whole.dtype == np.int8 and np.abs(whole * scales - matrix).max() < 3 * scales.max()
    nearest = np.rint(matrix / scales) * scales
    errors = [np.square(rows @ (found - matrix)).mean() for found in (whole * scales, nearest)]
    assert errors[0] < 0.6 * errors[1]


def test_a_channel_without_values_or_with_few_texts_is_rounded_to_the_nearest() -> None:
    matrix = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    whole, scales = quantise._rounded(matrix, np.zeros((5, 5), dtype=np.float32))
    assert (whole == np.rint(matrix / scales)).all()


def test_outliers_alone_are_brought_down() -> None:
    high = np.ones(100, dtype=np.float32)
    even = quantise.Seen(-high, high, np.eye(100, dtype=np.float32))
    assert (quantise._factors(even) == 1).all()
    high[7] = 50
    factors = quantise._factors(quantise.Seen(-np.ones(100, dtype=np.float32), high, even.moments))
    assert factors[7] == pytest.approx(50) and (np.delete(factors, 7) == 1).all()
    scale, zero = quantise._steps(quantise.Seen(even.low, high, even.moments), factors)
    assert scale == pytest.approx(2 / 255) and zero in (127, 128)
