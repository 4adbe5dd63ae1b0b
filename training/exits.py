"""Leaving early: what a lower layer is sure of needs no higher one, and leaves the graph there.

A head after a third, a half and two thirds of the layers answers as the whole encoder would (Schwartz et al. 2020, "The
Right Tool for the Given Task"). A text whose answer keeps its distance from every threshold leaves with it; the rows
of the others are packed together and go on. All of it is in the graph, in standard operators: whatever runs the model
has the gain, and no text's answer hangs on its company. The distances are chosen on validation, so that next to no
decision differs from what the last layer would have decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from communique.bundle import Manifest
from training import heads
from training.calibrate import probabilities
from training.graph import LOGITS, Graph
from training.heads import Taught
from training.tensors import held, spread

FLIPS = 0.002  # share of decisions on validation that leaving early may change
TEXTS = 16_000  # at most, to teach the heads: a third of a gigabyte a head, in statements of thirty tokens
SHARES = (1 / 3, 1 / 2, 2 / 3)  # of the layers, after which a text may leave

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Exit:
    """Where a text may leave.

    Attributes:
        layers: how many layers it has gone through.
        logits: the tensor with the head's answer.
    """

    layers: int
    logits: str


@dataclass(frozen=True)
class Gate:
    """An exit that is open.

    Attributes:
        exit: which one.
        distance: from every threshold, in logits, from which on a text takes it.
        share: of the validation texts that take it.
    """

    exit: Exit
    distance: float
    share: float


def grow(graph: Graph, tokenizer: Any, texts: Sequence[str], manifest: Manifest, path: Path) -> list[Exit]:
    """Adds heads to a graph, beside what it computes.

    Args:
        graph: as `training.graph.fast` gives it.
        tokenizer: the bundle's.
        texts: to teach the heads with; at most TEXTS of them, spread evenly.
        manifest: the task, and the temperature of the calibration.
        path: of an intermediate file.

    Returns:
        The exits, lowest first; none where the layers of the architecture are not known or do not follow plainly on
        one another.
    """
    exits, places = list[Exit](), watched(graph)
    if not places:
        return exits
    names = [LOGITS, *places.values()]
    graph.save(path, also=places.values())
    batches: dict[int, list[Taught]] = {layers: [] for layers in places}
    for _, (logits, *tensors) in held(path.read_bytes(), tokenizer, spread(texts, TEXTS), names):
        wanted = probabilities(logits, manifest.temperature, manifest.task).astype(np.float32)
        for layers, tensor in zip(places, tensors, strict=True):
            batches[layers].append(Taught(tensor.astype(np.float16), wanted))
    for layers, place in places.items():
        weights = heads.fit(batches.pop(layers), manifest.task, f"leaving after layer {layers}")
        exits.append(Exit(layers, _add_head(graph, f"exit/{layers}", place, weights, manifest.temperature)))
    return exits


def watched(graph: Graph) -> dict[int, str]:
    """Number of layers below an exit to the tensor that they end in."""
    count = len(graph.layers)
    numbers = sorted({max(1, round(share * count)) for share in SHARES})
    return {number: graph.layers[number] for number in numbers if number < count and _is_cut(graph, number)}


def provable(decisions: int) -> bool:
    """Whether so many decisions on validation are enough to show a share of FLIPS, parted among the exits."""
    return FLIPS * decisions >= len(SHARES)


def choose(exits: Sequence[Exit], answers: Sequence[Floats], last: Floats, manifest: Manifest) -> list[Gate]:
    """The smallest distances that let no more decisions change than FLIPS, the same number at each exit.

    Args:
        exits: lowest first.
        answers: of each exit, logits (texts, labels).
        last: the last layer's.
        manifest: task, temperature and thresholds.
    """
    gates, there = list[Gate](), np.ones(len(last), dtype=np.bool_)
    decided, allowed = _decided(last, manifest), FLIPS / max(1, len(exits)) * last.size
    for way, logits in zip(exits, answers, strict=True):
        rows = np.flatnonzero(there)
        if not len(rows):
            break
        distances = _distances(logits[rows], manifest)
        order = np.argsort(-distances, kind="stable")
        changed = (_decided(logits[rows], manifest) != decided[rows]).sum(axis=1)[order].cumsum()
        leaving = int(np.searchsorted(changed, allowed, side="right"))
        if leaving:
            distance = distances[order[leaving - 1]]
            taken = distances >= distance
            gates.append(Gate(way, float(distance), float(taken.sum() / len(last))))
            there[rows[taken]] = False
    return gates


def install(graph: Graph, gates: Sequence[Gate], manifest: Manifest) -> None:
    """Lets texts leave: each gate passes on the rows of those that stay."""
    staying = list[str]()
    for number, gate in enumerate(gates):
        name = f"exit/{gate.exit.layers}"
        below = graph.needed([gate.exit.logits])
        above = graph.needed([LOGITS, *(later.exit.logits for later in gates[number + 1 :])]) - below
        stays = _add_question(graph, name, gate, manifest)
        staying.append(stays)
        made = {output for node in graph.nodes if id(node) in below for output in node.output} | graph.inputs
        packed = dict[str, str]()
        for node in [node for node in graph.nodes if id(node) in above]:
            for place, source in enumerate(node.input):
                if source in made:
                    if source not in packed:
                        packed[source] = graph.add("Compress", [source, stays], f"{source}/after/{name}", axis=0)
                    node.input[place] = packed[source]
    answer = f"{LOGITS}/last"
    top = graph.makers()[LOGITS]
    top.name = top.output[0] = answer
    for gate, stays in reversed([*zip(gates, staying, strict=True)]):
        name = f"exit/{gate.exit.layers}"
        places = graph.add("Transpose", [graph.add("NonZero", [stays], f"{name}/rows")], f"{name}/places", perm=[1, 0])
        output = LOGITS if gate is gates[0] else f"{name}/together"
        answer = graph.add("ScatterND", [gate.exit.logits, places, answer], output)


def _is_cut(graph: Graph, number: int) -> bool:
    """Whether all that comes after a number of layers reads what they end in, and of what is below only the mask.

    So it is where a layer ends in its normalisation; not where a residual goes past it.
    """
    below = graph.needed([graph.layers[number]])
    masks = graph.needed([graph.mask])
    above = graph.needed([LOGITS]) - below - masks
    made = {output for node in graph.nodes if id(node) in below | masks for output in node.output} | graph.inputs
    crossing = {name for node in graph.nodes if id(node) in above for name in node.input if name in made}
    return crossing == {graph.layers[number], graph.mask}


def _add_head(graph: Graph, name: str, place: str, weights: Any, temperature: float) -> str:
    """The head of `training.heads` on a tensor (texts, tokens, channels); the name of its logits."""
    constants = {part: graph.constant(f"{name}/{part}/weights", value) for part, value in weights.items()}
    for part in ("outer", "outer_bias"):  # the calibration divides by it again
        graph.constants[constants[part]] = graph.constants[constants[part]] * np.float32(temperature)
    scores = graph.add("MatMul", [place, constants["queries"]], f"{name}/queries")
    scores = graph.add("Transpose", [scores], f"{name}/scores", perm=[0, 2, 1])
    mask = graph.add("Squeeze", [graph.mask, graph.constant(f"{name}/axis", [1])], f"{name}/mask")
    weighed = graph.add("Softmax", [graph.add("Add", [scores, mask], f"{name}/masked")], f"{name}/weighed", axis=-1)
    found = graph.add("MatMul", [weighed, place], f"{name}/found")
    flat = graph.add("Flatten", [found], f"{name}/flat", axis=1)
    inner = graph.add("MatMul", [flat, constants["inner"]], f"{name}/inner")
    inner = graph.add("Gelu", [graph.add("Add", [inner, constants["inner_bias"]], f"{name}/biased")], f"{name}/gelu",
                      domain="com.microsoft")  # fmt: skip
    outer = graph.add("MatMul", [inner, constants["outer"]], f"{name}/outer")
    return graph.add("Add", [outer, constants["outer_bias"]], f"{name}/logits")


def _add_question(graph: Graph, name: str, gate: Gate, manifest: Manifest) -> str:
    """Whether a text stays (texts,)."""
    logits = gate.exit.logits
    if manifest.task == "single_label":
        two = [f"{name}/two", f"{name}/which"]
        graph.add_several("TopK", [logits, graph.constant(f"{name}/count", [2])], two)
        distance = graph.add(
            "MatMul", [two[0], graph.constant(f"{name}/less", np.array([1, -1], dtype=np.float32))], f"{name}/distance"
        )
    else:
        bars = graph.constant(f"{name}/bars", _bars(manifest))
        ways = graph.add("Abs", [graph.add("Sub", [logits, bars], f"{name}/over")], f"{name}/ways")
        distance = graph.add("ReduceMin", [ways], f"{name}/distance", axes=[1], keepdims=0)
    return graph.add("Less", [distance, graph.constant(f"{name}/bar", np.float32(gate.distance))], f"{name}/stays")


def _bars(manifest: Manifest) -> Floats:
    """The thresholds as logits before calibration (labels,)."""
    tiny = np.finfo(np.float32).eps
    thresholds = np.clip(np.asarray(manifest.thresholds), tiny, 1 - tiny)
    return np.asarray(manifest.temperature * np.log(thresholds / (1 - thresholds)), dtype=np.float32)


def _distances(logits: Floats, manifest: Manifest) -> Floats:
    """How far an answer (texts, labels) is from another decision (texts,)."""
    if manifest.task == "single_label":
        ordered = np.sort(logits, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2])
    return np.asarray(np.abs(logits - _bars(manifest)).min(axis=1))


def _decided(logits: Floats, manifest: Manifest) -> npt.NDArray[np.bool_]:
    if manifest.task == "single_label":
        return np.asarray(logits == logits.max(axis=1, keepdims=True))
    return np.asarray(logits >= _bars(manifest))
