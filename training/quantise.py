"""Eight-bit models that are proved: the smallest recipe whose answers on validation are those of the full model.

Weights have one scale a column, activations one scale a tensor, measured once on training texts. So an answer does
not hang on what else is in the batch, as it would with scales taken from each batch anew. What 256 steps cannot
hold are the few channels that are many times as large as all others (Bondarenko et al. 2021, "Understanding and
Overcoming the Challenges of Efficient Transformer Quantization"); they are brought down to the others' size and
their rows of the matrix brought up (Xiao et al. 2023, "SmoothQuant", for these channels alone: for all of them it
costs the weights more than it spares the activations). What rounding a row of a matrix gets wrong the rows below it
make good, as far as training texts let them (Frantar et al. 2022, "GPTQ"). The word embeddings have one scale a row.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from sklearn.metrics import f1_score

from communique.classifier import Classifier, Floats
from training import exits
from training import graph as graphs
from training.console import say, warn
from training.corpus import Split
from training.exits import Exit
from training.graph import LOGITS, Array, Graph
from training.tensors import held, rows, spread

MAX_FLIPS = 0.005  # share of decisions that eight bits may change on validation
MAX_F1_DROP = 0.003
MEASURED = 1000  # training texts on which the activations' ranges are measured
USUAL = 0.95  # share of the channels whose range counts as usual
OUTLIER = 1.5  # times the usual range: from here on outliers are brought down
DAMPING = 0.01  # of the mean second moment, added to each channel's: with few texts some hang on one another
_TINY = 1e-9
_BLOCK = 128  # rows between two updates of all that lie below them: the same result, sooner

# Smallest first; a pattern names the products that stay in full precision, in BERT's and in ModernBERT's words.
RECIPES = (
    ("all matrices", None),
    ("all but the lowest feed-forward output", r"layer\.0/output/dense|layers\.0/mlp/Wo"),
    ("all but the feed-forward outputs", r"layer\.\d+/output/dense|layers\.\d+/mlp/Wo"),
    # what the lowest layers get wrong, all those above them build on
    (
        "all but the feed-forward outputs and the two lowest layers",
        r"layer\.\d+/output/dense|layers\.\d+/mlp/Wo|layers?\.[01]/",
    ),
    ("all but the feed-forward layers", r"layer\.\d+/(?:intermediate|output)/dense|layers\.\d+/mlp/W[io]"),
)


@dataclass(frozen=True)
class Seen:
    """What the channels of a tensor held over training texts.

    Attributes:
        low, high: of each channel (channels,), zero included.
        moments: mean product of each two channels (channels, channels).
    """

    low: Floats
    high: Floats
    moments: Floats


def quantise(
    exact: Classifier,
    expected: Floats,
    heads: int,
    hidden: int,
    train: Split,
    validation: Split,
    scratch: Path,
    *,
    early: bool = True,
) -> tuple[bytes, dict[str, Any]]:
    """Tries the recipes in order and takes the first that keeps the answers.

    Args:
        exact: the model in fp32.
        expected: its probabilities of the validation texts (texts, labels).
        heads, hidden: attention heads and hidden size, for the fusion.
        train: texts to measure the activations on.
        validation: texts and truth to judge by.
        scratch: a folder for intermediate files.
        early: whether texts may leave the graph early, see `training.exits`.

    Returns:
        The model, and a report: recipe, accepted, reason (why not), flips (share of changed decisions),
        macro_f1_drop, largest_change (of a probability), texts, and leaving (where texts
        leave early: share of the validation texts). Where no recipe is accepted, the last one's.
    """
    plain, watched, small = (scratch / f"{name}.onnx" for name in ("plain", "watched", "small"))
    full = exact._source
    plain.write_bytes(full.model)
    graph = graphs.fast(plain, scratch, heads, hidden)
    ways = list[Exit]()
    if early and exits.provable(validation.truth.size):
        ways = exits.grow(graph, exact._tokenizer, train.texts, full.manifest, watched)
    names = [node.name for node in graph.matrices()]
    inputs = sorted({node.input[0] for node in graph.matrices()})
    graph.save(watched, also=inputs)
    seen = _measured(watched.read_bytes(), inputs, exact._tokenizer, train.texts)
    model, report = b"", dict[str, Any]()
    for recipe, pattern in RECIPES:
        kept = {name for name in names if pattern and re.search(pattern, name)}
        if pattern and not kept and model:
            continue  # an architecture with other names: this recipe is the one before
        quantised = _eight_bits(copy.deepcopy(graph), seen, kept)
        quantised.save(small)
        model = small.read_bytes()
        report = {"recipe": recipe, **_judged(expected, Classifier(replace(full, model=model)), validation)}
        say(f"  int8, {recipe}: {len(model) / 2**20:.1f} MiB, {report['flips']:.2%} of the decisions flip")
        if report["accepted"]:
            opened = _leaving(quantised, ways, exact, expected, validation, small) if ways else None
            return (opened[0], report | opened[1]) if opened else (model, report)
    return model, report


def _leaving(
    graph: Graph, ways: Sequence[Exit], exact: Classifier, expected: Floats, validation: Split, path: Path
) -> tuple[bytes, dict[str, Any]] | None:
    """The eight-bit graph with its exits open, and its report; None where they know nothing, or cost too much."""
    names = [LOGITS, *(way.logits for way in ways)]
    graph.save(path, also=names[1:])
    last, *answers = rows(path.read_bytes(), exact._tokenizer, validation.texts, names)
    gates = exits.choose(ways, answers, last, exact.manifest)
    if not gates:
        return None
    exits.install(graph, gates, exact.manifest)
    graph.save(path)
    judged = _judged(expected, Classifier(replace(exact._source, model=path.read_bytes())), validation)
    leaving = {f"after layer {gate.exit.layers}": round(gate.share, 4) for gate in gates}
    after = ", ".join(f"{share:.0%} {where}" for where, share in leaving.items())
    say(f"  leaving early: {after}; {judged['flips']:.2%} of the decisions flip")
    if not judged["accepted"]:
        warn(f"no text leaves early: {judged['reason']}")
        return None
    return path.read_bytes(), {**judged, "leaving": leaving}


def _measured(model: bytes, names: list[str], tokenizer: Any, texts: list[str]) -> dict[str, Seen]:
    """What each named tensor holds over at most MEASURED of the texts, spread evenly."""
    lows, highs, products, counts = ({name: np.zeros(1, np.float32) for name in names} for _ in range(4))
    for _, found in held(model, tokenizer, spread(texts, MEASURED), names):
        for name, value in zip(names, found, strict=True):
            tokens = value.reshape(-1, value.shape[-1])
            lows[name] = np.minimum(lows[name], tokens.min(axis=0))
            highs[name] = np.maximum(highs[name], tokens.max(axis=0))
            products[name] = products[name] + tokens.T @ tokens
            counts[name] = counts[name] + len(tokens)
    return {name: Seen(lows[name], highs[name], products[name] / counts[name]) for name in names}


def _eight_bits(graph: Graph, seen: Mapping[str, Seen], kept: set[str]) -> Graph:
    """The graph with its matrices but those named in `kept`, and its word embeddings, in eight bits."""
    users, products = graph.users(), [node for node in graph.matrices() if node.name not in kept]
    for source in sorted({node.input[0] for node in products}):
        factors = _factors(seen[source])
        scale, zero = _steps(seen[source], factors)
        scaled = source
        if factors.max() > 1:
            scaled = graph.add("Mul", [source, graph.constant(f"{source}/factors", 1 / factors)], f"{source}/even")
        steps = [graph.constant(f"{source}/scale", scale), graph.constant(f"{source}/zero", zero)]
        small = graph.add("QuantizeLinear", [scaled, *steps], f"{source}/small")
        moments = seen[source].moments / np.outer(factors, factors)
        for node in (node for node in products if node.input[0] == source):
            matrix, scales = _rounded(graph.constants[node.input[1]] * factors[:, None], moments)
            matrix_name = graph.constant(f"{node.name}/matrix", matrix)
            bias, output = _bias_after(graph, users, node)
            inputs = [small, matrix_name, steps[0], graph.constant(f"{node.name}/scales", scales), steps[1], "", bias]
            graph.nodes.remove(node)
            graph.add("MatMulIntegerToFloat", inputs, output, domain="com.microsoft")
    for node in [node for node in graph.nodes if node.op_type == "Gather" and node.input[1] == "input_ids"]:
        _small_embeddings(graph, node)
    return graph


def _factors(seen: Seen) -> Floats:
    """What each channel (channels,) is divided by: more than 1 for outliers, where there are any."""
    reach = np.maximum(-seen.low, seen.high)
    usual = max(float(np.quantile(reach, USUAL)), _TINY)
    if reach.max() <= OUTLIER * usual:
        return np.ones_like(reach)
    return np.asarray(np.maximum(1, reach / usual), dtype=np.float32)


def _steps(seen: Seen, factors: Floats) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of 256 steps over what the tensor holds once it is divided by its factors."""
    low, high = float((seen.low / factors).min()), float((seen.high / factors).max())
    scale = max((high - low) / 255, _TINY)
    return np.float32(scale), np.uint8(round(-low / scale))


def _rounded(matrix: Floats, moments: Floats) -> tuple[Array, Floats]:
    """A matrix in int8 and the scale of each of its columns, rounded row by row (GPTQ, algorithm 1).

    The rows of the channels that hold most come first: their errors have most rows left to make them good.
    """
    order = np.argsort(-np.diag(moments))
    scales, rest = _scales(matrix, axis=0), matrix[order].astype(np.float64)
    damped = moments[np.ix_(order, order)].astype(np.float64)
    np.fill_diagonal(damped, np.diag(damped) + max(DAMPING * np.diag(damped).mean(), _TINY))
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T
    rounded = np.empty(matrix.shape, dtype=np.int8)
    for start in range(0, len(rest), _BLOCK):
        end = min(start + _BLOCK, len(rest))
        errors = np.empty((end - start, rest.shape[1]))
        for row in range(start, end):
            whole = np.clip(np.rint(rest[row] / scales), -127, 127)
            rounded[order[row]] = whole
            errors[row - start] = (rest[row] - whole * scales) / spread[row, row]
            rest[row + 1 : end] -= np.outer(spread[row, row + 1 : end], errors[row - start])
        rest[end:] -= spread[start:end, end:].T @ errors
    return rounded, scales


def _scales(matrix: Floats, axis: int) -> Floats:
    """The step of each column (axis 0) or row (axis 1): 127 of them to its largest value."""
    return np.asarray(np.maximum(np.abs(matrix).max(axis=axis) / 127, _TINY), dtype=np.float32)


def _bias_after(graph: Graph, users: Mapping[str, list[Any]], node: Any) -> tuple[str, str]:
    """The bias that is added to a product and to nothing else ("" if none), and the name of the sum."""
    following, columns = users[node.output[0]], graph.constants[node.input[1]].shape[1:]
    if len(following) == 1 and following[0].op_type == "Add":
        for name in following[0].input:
            if name in graph.constants and graph.constants[name].shape == columns:
                graph.nodes.remove(following[0])
                return name, following[0].output[0]
    return "", node.output[0]


def _small_embeddings(graph: Graph, node: Any) -> None:
    (name, ids), table = node.input, graph.constants[node.input[0]]
    scales = _scales(table, axis=1)
    whole = np.rint(table / scales[:, None]).astype(np.int8)
    rows = graph.add("Gather", [graph.constant(f"{name}/rows", whole), ids], f"{name}/small")
    scale = graph.add("Gather", [graph.constant(f"{name}/scales", scales[:, None]), ids], f"{name}/scale")
    floats = graph.add("Cast", [rows], f"{name}/float", to=onnx.TensorProto.FLOAT)
    graph.nodes.remove(node)
    graph.add("Mul", [floats, scale], node.output[0])


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
