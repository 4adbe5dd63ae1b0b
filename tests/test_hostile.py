"""Bundles made to harm, with right hashes: each is refused by name, or can do nothing. SECURITY.md lists them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import communique
from communique import Classifier, bundle, golden
from communique.__main__ import main
from communique.errors import BundleError
from tests.conftest import ROOT
from training import baseline, config, corpus
from training.__main__ import main as pipeline
from training.errors import RunError
from training.train import fit

BUNDLE = max((ROOT / "tests" / "fixtures").glob("*/bundle"))
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TEXTS = ["We reject the plan for Oslo.", "It rained in Lima."]


@pytest.fixture
def held(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))


def _signed(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    bundle.write_sums(folder)
    return folder


def _manifest(folder: Path, **changes: Any) -> Path:
    content = {**json.loads((folder / "communique.json").read_text()), **changes}
    return _signed(folder, "communique.json", json.dumps(content).encode())


GOLDEN = {"text": "It rained.", "probabilities": [0.1, 0.1, 0.1, 0.1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [1, 2, 3, 4]}, "labels must be a list of printable texts"),
        ({"labels": "abcd"}, "labels must be a list"),
        ({"labels": [["a"], ["b"], ["c"], ["d"]]}, "labels must be a list"),
        ({"labels": {"a": 1, "b": 2, "c": 3, "d": 4}}, "labels must be a list"),
        ({"labels": ["\x1b[2J", "b", "c", "d"]}, "labels must be a list of printable texts"),
        ({"labels": ["a\nb", "b", "c", "d"]}, "labels must be a list of printable texts"),
        ({"labels": ["x" * 201, "b", "c", "d"]}, "of 1 to 200 characters"),
        ({"labels": [str(i) for i in range(10**6)], "thresholds": [0.5] * 10**6}, "1 to 1000, found 1000000"),
        ({"labels": ["a", "b", "c", "d", "e"], "thresholds": [0.5] * 5, "golden": []}, r"shape \(1, 4\)"),
        ({"thresholds": [float("nan")] * 4}, "thresholds must be a list of finite numbers"),
        ({"thresholds": "1234"}, "thresholds must be a list"),
        ({"temperature": True}, "temperature must be a finite number"),
        ({"temperature": 10**400}, "temperature must be a finite number"),
        ({"temperature": 1e-300}, "temperature must be 0.001 to 1000"),
        ({"max_length": float("inf")}, "max_length must be a whole number"),
        ({"max_length": 10**9}, "max_length must be 8 to 8192"),
        ({"name": 3}, "name must be printable text"),
        ({"version": "\x1b]0;x\x07"}, "version must be printable text"),
        ({"precision": ["int8"]}, "precision must be a string"),
        ({"format": True}, "no format number"),
        ({"format": 0}, "no format number"),
        ({"figures": {"test/macro_f1": "1"}}, "figures must be an object of finite numbers"),
        ({"corpus": [1]}, "corpus must be an object"),
        ({"golden": {"a": 1}}, "golden must be a list"),
        ({"golden": [{"text": "a"}]}, "golden must be a list"),
        ({"golden": [{**GOLDEN, "probabilities": [1]}]}, "4 probabilities"),
        ({"golden": [{**GOLDEN, "probabilities": ["x"] * 4}]}, "golden must be a list"),
    ],
)
def test_a_manifest_that_lies_is_refused(held: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        communique.load(_manifest(held, **changes), threads=1)("A text.")


@pytest.mark.parametrize("name", ["communique.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"[" * 10**6, b'{"a":' * 10**5, b"null", b"[]", b'"', b"\xff\xfe{}", b"{}", b""])
def test_json_that_is_deep_or_of_another_kind_is_refused_by_name(held: Path, name: str, content: bytes) -> None:
    with pytest.raises(BundleError, match=re.escape(name)):
        communique.load(_signed(held, name, content), threads=1)


def test_a_tokenizer_that_is_too_large_is_not_read(held: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_JSON_BYTES", 6000)
    with pytest.raises(BundleError, match=r"tokenizer\.json: has .* bytes, more than the 6,000 allowed"):
        communique.load(held)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["model"].update(vocab={word: place + 10**6 for word, place in raw["model"]["vocab"].items()}),
        lambda raw: raw["model"].update(vocab=[]),
        lambda raw: raw["model"].update(unk_token="absent"),
        lambda raw: raw["model"].update(type="Pickle"),
        lambda raw: raw.update(normalizer={"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
        lambda raw: raw.update(post_processor={"type": "TemplateProcessing", "single": [], "pair": []}),
    ],
    ids=["ids out of range", "no words", "no unknown", "another kind", "broken pattern", "nothing comes out"],
)
def test_a_tokenizer_that_does_not_fit_is_refused_by_name(held: Path, change: Callable[[Any], Any]) -> None:
    raw = json.loads((held / "tokenizer.json").read_text())
    change(raw)
    _signed(held, "tokenizer.json", json.dumps(raw).encode())
    with pytest.raises(BundleError, match=r"tokenizer\.json|onnx/model"):
        communique.load(held, threads=1)(["zebra quagga", "§"])


def _model(
    nodes: list[onnx.NodeProto], *tensors: onnx.TensorProto, output: Any = None, inputs: tuple[Any, ...] = ()
) -> bytes:
    given = [helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"]) for name in INPUTS]
    outputs = [output or helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["texts", None])]
    graph = helper.make_graph(nodes, "hostile", [*given, *inputs], outputs, [*tensors])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("evil", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def _tensor(name: str, values: Any, kind: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=kind), name)


# a row of `weights` for every text, by the mask of its first token
ROWS = [
    helper.make_node("Gather", ["attention_mask", "zero"], ["first"], axis=1),
    helper.make_node("Gather", ["weights", "first"], ["logits"], axis=0),
]
ZERO = _tensor("zero", 0, np.int64)


def _outside(location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[2, 4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "32")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _one(operator: str, domain: str = "", **attributes: Any) -> list[onnx.NodeProto]:
    return [helper.make_node(operator, ["input_ids"], ["logits"], domain=domain, **attributes)]


STRINGS = helper.make_tensor_value_info("logits", TensorProto.STRING, ["texts", "tokens"])
OTHER = helper.make_tensor_value_info("other", TensorProto.FLOAT, ["texts", None])
MORE = helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])
HUGE = [helper.make_node("ConstantOfShape", ["shape"], ["z"]), helper.make_node("ReduceMax", ["z"], ["logits"])]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"", "not a model"),
        (b"not a model" * 100, "not a model"),
        (_model(_one("Evil")), "not a model.*Evil"),
        (_model(_one("Evil", "evil")), "not a model.*evil:Evil"),
        (_model(_one("PyOp", "com.microsoft")), "not a model.*PyOp"),
        (_model(_one("Cast", to=TensorProto.STRING), output=STRINGS), "not a classifier.*'logits' tensor.string"),
        (_model([*ROWS[:1], helper.make_node("Gather", ["weights", "first"], ["other"])], ZERO,
                _tensor("weights", np.eye(4)), output=OTHER), "not a classifier.*'other'"),
        (_model(ROWS, ZERO, _tensor("weights", np.eye(4)), inputs=(MORE,)), "not a classifier.*'more'"),
        (_model(ROWS, ZERO, _tensor("weights", np.zeros((2, 7)))), r"shape \(1, 7\) for 1 texts and 4 labels"),
        (_model(ROWS, ZERO, _tensor("weights", np.full((2, 4), np.nan))), "no numbers"),
        (_model(ROWS, ZERO, _tensor("weights", np.full((2, 4), np.inf))), "no numbers"),
        (_model(HUGE, _tensor("shape", [1 << 40], np.int64)), "does not work.*allocate"),
    ],
    ids=["nothing", "text", "unknown operator", "custom operator", "python operator", "strings", "another output",
         "another input", "seven labels", "not a number", "infinite", "four TiB"],
)  # fmt: skip
def test_a_model_that_is_no_classifier_is_refused_by_name(held: Path, model: bytes, message: str) -> None:
    (held / "onnx" / "model_quantized.onnx").unlink()
    _manifest(held, precision="fp32")
    with pytest.raises(BundleError, match=f"onnx/model.onnx: .*{message}"):
        communique.load(_signed(held, "onnx/model.onnx", model), threads=1)("A text.")


@pytest.mark.parametrize(
    "location", ["weights.bin", "./weights.bin", "../outside.bin", "/{}/outside.bin", "model.onnx"]
)
def test_a_model_reads_no_other_file(
    held: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """Weights may lie in files beside a model; neither the bundle's folder nor the current one is looked into."""
    for place in (tmp_path / "outside.bin", tmp_path / "here" / "weights.bin", held / "onnx" / "weights.bin"):
        place.parent.mkdir(exist_ok=True)
        np.arange(8, dtype=np.float32).tofile(place)
    monkeypatch.chdir(tmp_path / "here")
    model = _model(ROWS, ZERO, _outside(location.format(str(tmp_path).strip("/"))))
    for folder in (tmp_path / "here", held / "onnx"):
        monkeypatch.chdir(folder)
        with pytest.raises(BundleError, match=r"onnx/model\.onnx: not a model"):
            communique.load(_signed(held, "onnx/model.onnx", model), threads=1, precision="fp32")


def test_the_same_model_with_its_weights_inside_answers() -> None:
    source = bundle.read(BUNDLE, "fp32")
    model = _model(ROWS, ZERO, _tensor("weights", np.arange(8).reshape(2, 4)))
    found = Classifier(dataclasses.replace(source, model=model), threads=1).predict_proba(TEXTS)
    assert found.shape == (2, 4), "the models above are refused for what is wrong with them"


def test_links_pipes_and_long_names_are_refused(held: Path, tmp_path: Path) -> None:
    moved = (held / "onnx").rename(tmp_path / "elsewhere")
    (held / "onnx").symlink_to(moved)
    with pytest.raises(BundleError, match="symbolic link"):
        bundle.read(held)
    (held / "onnx").unlink()
    moved.rename(held / "onnx")
    (held / "tokenizer.json").unlink()
    os.mkfifo(held / "tokenizer.json")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        bundle.read(held)
    with (held / bundle.SUMS).open("a") as stream:
        stream.write(f"{'0' * 64}  {'a/' * 5000}\n")
    with pytest.raises(BundleError, match="a file name of"):
        bundle.verify(held)


def test_what_a_bundle_says_of_itself_steers_no_terminal(held: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _manifest(held, corpus={"name\x1b[2J": "\x1b]0;x\x07\nlabels      safe"}, golden=[])
    assert main(["info", "--model", str(held)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\x07" not in printed and "\nlabels      safe" not in printed


def test_a_bundle_without_golden_texts_says_so(held: Path) -> None:
    assert "no golden texts" in golden.check(_manifest(held, golden=[]))


# Runs


def test_nothing_that_is_written_or_read_is_a_pickle(tmp_path: Path) -> None:
    """Neither in the code, nor in what it writes: a run of either kind, a bundle."""
    sources = [
        *(ROOT / "communique").glob("*.py"),
        *(ROOT / "training").glob("*.py"),
        *(ROOT / "examples").glob("*.py"),
    ]
    loaders = (
        r"\b(import (pickle|dill|cloudpickle|joblib|marshal|shelve)|torch\.load\(|np\.load\(|(?<!\.)(eval|exec)\()"
    )
    assert not [str(file) for file in sources if re.search(loaders, file.read_text())]
    settings = config.load(ROOT / "configs" / "tfidf.yaml", [f"corpus={BUNDLE.parent / 'corpus'}", "min_count=1"])
    fit(settings, corpus.load(settings.corpus), print).save(tmp_path / "model")
    files = [file for place in (BUNDLE.parent, tmp_path) for file in place.rglob("*") if file.is_file()]
    held = {str(file): file.read_bytes() for file in files}
    for file in files:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                held |= {f"{file}/{name}": archive.read(name) for name in archive.namelist()}
    assert any(name.endswith(".skops/schema.json") for name in held) and len(held) > 20
    assert not [name for name, content in held.items() if re.match(rb"\x80[\x02-\x05]", content)]


def test_a_baseline_run_with_a_function_in_it_is_refused(tmp_path: Path) -> None:
    import skops.io
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    skops.io.dump(make_pipeline(FunctionTransformer(os.system)), tmp_path / baseline.FILE)
    with pytest.raises(RunError, match=r"model\.skops: .*system"):
        baseline.load(tmp_path)
    (tmp_path / baseline.FILE).write_bytes(b"no archive")
    with pytest.raises(RunError, match=r"model\.skops: "):
        baseline.load(tmp_path)


# Servers and secrets


def test_the_servers_listen_on_loopback_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    import service

    hosts: list[str] = []
    monkeypatch.setattr("uvicorn.run", lambda _, host, port: hosts.append(host))
    monkeypatch.setattr("sys.argv", ["service.py", "--bundle", str(BUNDLE)])
    assert service.main() == 0

    class StartedError(Exception):
        pass

    real = subprocess.Popen

    def start(command: Any, *rest: Any, **options: Any) -> Any:
        if "--host" not in command:
            return real(command, *rest, **options)
        hosts.append(command[command.index("--host") + 1])
        raise StartedError

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(StartedError):
        pipeline(["ui"])
    assert hosts == ["127.0.0.1", "127.0.0.1"]


SECRETS = [
    "http://ada:hunter%212@127.0.0.1:9",
    "http://127.0.0.1:9/?token=hunter!2",
    "postgresql+nodriver://ada@127.0.0.1:9/x?password=hunter!2",
]


@pytest.mark.parametrize("address", SECRETS)
def test_a_dead_registry_tells_no_password(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert pipeline(["rollback"]) == 2
    printed = capsys.readouterr()
    assert "127.0.0.1:9" in printed.err and "hunter" not in printed.err + printed.out


# Load


def test_a_fork_and_a_pool_of_processes_answer_the_same(tmp_path: Path) -> None:
    """In an interpreter of its own: a fork of this one would take its threads' locks along."""
    (tmp_path / "load.py").write_text(f"""
import multiprocessing, os, sys, threading
from concurrent.futures import ProcessPoolExecutor
import communique

TEXTS = {TEXTS!r} * 20
asked = classifier = communique.load({str(BUNDLE)!r}, threads=2)

def answers(text):
    return classifier.predict_proba([text]).tolist()

def carried(given, text):
    return given.predict_proba([text]).tolist()

if __name__ == "__main__":
    expected = [answers(text) for text in TEXTS]
    wrong = []
    def ask():
        wrong.extend(text for text, one in zip(TEXTS, expected) if answers(text) != one)
    threads = [threading.Thread(target=ask) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong, "threads"
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            assert list(pool.map(answers, TEXTS)) == expected, method
            assert list(pool.map(carried, [classifier] * 4, TEXTS[:4])) == expected[:4], method
    child = os.fork()
    if child == 0:
        os._exit(0 if [answers(text) for text in TEXTS] == expected else 3)
    assert os.waitpid(child, 0)[1] == 0
    print("same")
""")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, tmp_path / "load.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout == "same\n", done.stderr
