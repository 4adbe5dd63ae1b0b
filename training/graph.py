"""An encoder's ONNX graph, rewritten into the operators that onnxruntime runs fastest on a processor; same answers.

Three things are not as one would expect. Plain Add and LayerNormalization are five times as fast as the fused
SkipLayerNormalization, Gelu twice as fast as BiasGelu, and attention in plain operators a fifth faster than
MultiHeadAttention with a mask: so what is fused is fused as far as that, and attention is taken apart again. And
where a model looks at the first token alone, what comes after the last attention is computed for that token alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

Array = npt.NDArray[Any]
Node = Any  # onnx.NodeProto; onnx's annotations are not followed

MASK = "attention_mask"
LOGITS = "logits"
_LOW = -10_000.0  # added to the scores of padding; its exponential is zero
_ROWWISE = {"LayerNormalization": 1, "Gelu": 1, "MatMul": 1, "Add": 2}  # how many of the inputs are rows of tokens


class Graph:
    """An ONNX model while it is rewritten.

    Attributes:
        nodes: in any order; `save` sorts them and drops those that no output needs.
        constants: name to value.
        layers: what each layer's attention reads, lowest first; empty where that is not known.
        mask: what is added to the scores of attention (texts, 1, 1, tokens), once `fast` has made it.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.layers: list[str] = []
        self.mask = ""
        self.constants: dict[str, Array] = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        self.nodes: list[Node] = []
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            else:
                self.nodes.append(node)

    @classmethod
    def read(cls, path: Path) -> Graph:
        """The graph in a file."""
        return cls(onnx.load(path))

    def makers(self) -> dict[str, Node]:
        """Tensor to the node that makes it."""
        return {name: node for node in self.nodes for name in node.output}

    @property
    def inputs(self) -> set[str]:
        """Names of what the model is given."""
        return {one.name for one in self._model.graph.input}

    def needed(self, names: Iterable[str]) -> set[int]:
        """The nodes that tensors depend on, by `id`."""
        return {id(node) for node in self._ordered(names)}

    def users(self) -> dict[str, list[Node]]:
        """Tensor to the nodes that take it."""
        found = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                found[name].append(node)
        return found

    def constant(self, name: str, value: Any) -> str:
        """Adds a constant; returns its name."""
        self.constants[name] = np.asarray(value)
        return name

    def add(self, kind: str, inputs: Iterable[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Adds a node that is named as its output; returns that name."""
        self.add_several(kind, inputs, [output], domain, **attributes)
        return output

    def add_several(
        self, kind: str, inputs: Iterable[str], outputs: list[str], domain: str = "", **attributes: Any
    ) -> None:
        """Adds a node with several outputs, named as the first."""
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=outputs[0], domain=domain, **attributes))

    def matrices(self) -> list[Node]:
        """The products with a constant matrix."""
        return [
            node
            for node in self.nodes
            if node.op_type == "MatMul" and self.constants.get(node.input[1], np.empty(0)).ndim == 2
        ]

    def save(self, path: Path, also: Iterable[str] = ()) -> None:
        """Writes the model, the tensors named in `also` as further outputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in also)
        ordered = self._ordered(one.name for one in model.graph.output)
        used = {name for node in ordered for name in node.input}
        for field in (model.graph.node, model.graph.initializer, model.graph.value_info):
            del field[:]
        model.graph.node.extend(ordered)
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.constants.items() if name in used
        )
        onnx.save(model, path)

    def _ordered(self, outputs: Iterable[str]) -> list[Node]:
        makers, done, ordered = self.makers(), set[int](), list[Node]()
        waiting = [(makers[name], False) for name in reversed(list(outputs)) if name in makers]
        while waiting:
            node, ready = waiting.pop()
            if ready:
                ordered.append(node)
            elif id(node) not in done:
                done.add(id(node))
                waiting.append((node, True))
                waiting += [(makers[name], False) for name in node.input if name in makers]
        return ordered


def fast(source: Path, scratch: Path, heads: int, hidden: int) -> Graph:
    """The graph in `source`, rewritten; what the rewriting does not know of an architecture stays as it is.

    Args:
        source: the exported model.
        scratch: a folder for the intermediate file.
        heads, hidden: attention heads and hidden size.
    """
    options = FusionOptions("bert")
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = options.enable_embed_layer_norm = False
    options.enable_bias_gelu = False
    options.use_multi_head_attention = True
    fused = optimizer.optimize_model(
        str(source), model_type="bert", num_heads=heads, hidden_size=hidden, opt_level=0, optimization_options=options
    )
    fused.save_model_to_file(str(scratch / "fused.onnx"))
    graph = Graph.read(scratch / "fused.onnx")
    _gemm_as_product(graph)
    attentions = [node for node in graph.nodes if _is_known(graph, node)]
    if not attentions:
        return graph
    makers = graph.makers()
    graph.layers = [makers[node.input[0]].input[0] for node in attentions]
    for node in attentions:
        _own_bias(graph, node, hidden // heads)
    last = _first_token_alone(graph, attentions[-1])
    _plain_attention(graph, [*attentions[:-1], last], heads, hidden // heads)
    return graph


def _gemm_as_product(graph: Graph) -> None:
    for node in [node for node in graph.nodes if node.op_type == "Gemm"]:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        scaled = attributes.get("alpha", 1) != 1 or attributes.get("beta", 1) != 1 or attributes.get("transA")
        if scaled or node.input[1] not in graph.constants or len(node.input) < 3:
            continue
        matrix = graph.constants[node.input[1]]
        turned = np.ascontiguousarray(matrix.T) if attributes.get("transB") else matrix
        graph.nodes.remove(node)
        name = node.name or node.output[0]
        product = graph.add("MatMul", [node.input[0], graph.constant(f"{name}/matrix", turned)], f"{name}/product")
        graph.add("Add", [product, node.input[2]], node.output[0])


def _is_known(graph: Graph, node: Node) -> bool:
    """Whether this is attention of tokens to each other, by products with constant matrices, padding masked."""
    plain = node.op_type == "MultiHeadAttention" and len(node.input) == 5 and all(node.input[:3]) and node.input[4]
    if not plain or any(one.name == "scale" for one in node.attribute):
        return False
    products = {product.output[0] for product in graph.matrices()}
    return set(node.input[:3]) <= products and (not node.input[3] or node.input[3] in graph.constants)


def _own_bias(graph: Graph, node: Node, size: int) -> None:
    """Gives query, key and value the bias that the fusion put into the attention, and the query the scale."""
    makers, scale = graph.makers(), np.float32(size**-0.5)
    query = makers[node.input[0]]
    matrix = graph.constants[query.input[1]]
    query.input[1] = graph.constant(f"{query.name}/scaled", matrix * scale)
    biases = np.split(graph.constants[node.input[3]], 3) if node.input[3] else ()
    for place, bias in enumerate(biases):
        name = f"{makers[node.input[place]].name}/biased"
        value = graph.constant(f"{name}/bias", bias if place else bias * scale)
        node.input[place] = graph.add("Add", [node.input[place], value], name)
    node.input[3] = ""


def _first_token_alone(graph: Graph, attention: Node) -> Node:
    """Moves the choice of the first token before the last attention's query: no other row is read after it.

    Returns:
        The attention that counts: a copy with one query, or the one that was given where all rows are read.
    """
    makers = graph.makers()
    choices = [node for node in graph.nodes if _takes_first_token(graph, node) and node.input[0] in makers]
    if len(choices) != 1:
        return attention
    whole, waiting = set[str](), [*attention.input[1:3]]  # key and value are of every token
    while waiting:
        name = waiting.pop()
        if name not in whole:
            whole.add(name)
            waiting += makers[name].input if name in makers else []
    bounds = [graph.constant(f"first/{name}", [value]) for name, value in (("start", 0), ("end", 1), ("axis", 1))]
    made = dict[str, str]()

    def first(name: str) -> str:
        if name in made or name in graph.constants:
            return made.get(name, name)
        made[name] = f"{name}/first"
        node = makers.get(name)
        rows = 0 if node is None or name in whole else 1 if node is attention else _ROWWISE.get(node.op_type, 0)
        if node is None or not rows:
            return graph.add("Slice", [name, *bounds], made[name])
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name, copy.output[0] = f"{node.name}/first", made[name]
        for place in range(rows):
            copy.input[place] = first(node.input[place])
        graph.nodes.append(copy)
        return made[name]

    choices[0].input[0] = first(choices[0].input[0])
    return graph.makers().get(f"{attention.output[0]}/first", attention)


def _takes_first_token(graph: Graph, node: Node) -> bool:
    axes = [one.i for one in node.attribute if one.name == "axis"]
    index = graph.constants.get(node.input[1]) if node.op_type == "Gather" else None
    return index is not None and axes == [1] and index.ndim == 0 and int(index) == 0


def _plain_attention(graph: Graph, attentions: list[Node], heads: int, size: int) -> None:
    """Takes attention apart (Vaswani et al. 2017, "Attention Is All You Need", equation 1)."""
    split = graph.constant("attention/split", [0, 0, heads, size])
    join = graph.constant("attention/join", [0, 0, heads * size])
    seen = graph.add("Unsqueeze", [MASK, graph.constant("attention/axes", [1, 2])], "attention/seen")
    seen = graph.add("Cast", [seen], "attention/seen/float", to=onnx.TensorProto.FLOAT)
    unseen = graph.add("Sub", [graph.constant("attention/one", np.float32(1)), seen], "attention/unseen")
    graph.mask = graph.add("Mul", [unseen, graph.constant("attention/low", np.float32(_LOW))], "attention/mask")
    for node in attentions:
        graph.nodes.remove(node)
        name, turned = node.name, []
        parts = (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3]))
        for source, (part, order) in zip(node.input[:3], parts, strict=True):
            parted = graph.add("Reshape", [source, split], f"{name}/{part}/parted")
            turned.append(graph.add("Transpose", [parted], f"{name}/{part}", perm=order))
        query, key, value = turned
        scores = graph.add("MatMul", [query, key], f"{name}/scores")
        masked = graph.add("Add", [scores, graph.mask], f"{name}/masked")
        weights = graph.add("Softmax", [masked], f"{name}/weights", axis=-1)
        context = graph.add("MatMul", [weights, value], f"{name}/context")
        together = graph.add("Transpose", [context], f"{name}/together", perm=[0, 2, 1, 3])
        graph.add("Reshape", [together, join], node.output[0])
