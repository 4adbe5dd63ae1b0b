"""The runtime against `transformers.pipeline`, in one run, on the same texts, with the same threads.

    python benchmarks/inference.py [BUNDLE] [--texts FILE.jsonl] [--threads 2] [--rounds 5] [--wheel FILE.whl]

Rounds alternate between the two, so that a noisy machine is noisy for both; ratios are what counts. The line below the
table says how fast the processor multiplies eight-bit matrices when it does nothing else, and which share of that the
runtime reaches: its matrix products, over all the time that it takes. With `--wheel` also what the wheel weighs, and
what an empty virtual environment weighs that it was installed into (packages are fetched as pip is set to).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

import communique

BATCHED, SINGLE = 1000, 60
ROWS, INNER, COLUMNS = 256, 384, 1536  # of the product that stands for what the processor can do
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", default="bundles/model")
    parser.add_argument("--texts", type=Path, default=Path("datasets/statements/test.jsonl"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wheel", type=Path)
    asked = parser.parse_args()
    texts = [json.loads(line)["text"] for line in asked.texts.read_text(encoding="utf-8").splitlines()][:BATCHED]

    import torch
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(asked.threads)
    peer = pipeline("text-classification", model=asked.bundle, top_k=None, device="cpu")
    ours = communique.load(asked.bundle, threads=asked.threads)

    def alone(call: Callable[[str], object]) -> list[float]:
        return [_seconds(lambda text=text: call(text)) for text in texts[:SINGLE]]

    peer(texts[:32], batch_size=32), ours.predict_proba(texts[:32])
    batched: dict[str, list[float]] = {"pipeline": [], "communique": []}
    single: dict[str, list[float]] = {"pipeline": [], "communique": []}
    products, multiply, possible = _products(asked.bundle, texts), _multiplier(asked.threads), []
    for _ in range(asked.rounds):
        batched["pipeline"].append(_seconds(lambda: peer(texts, batch_size=32)))
        batched["communique"].append(_seconds(lambda: ours.predict_proba(texts)))
        possible.append(multiply())
        single["pipeline"] += alone(peer)
        single["communique"] += alone(ours)
    fresh = {name: [_fresh(name, asked.bundle, asked.texts) for _ in range(3)] for name in batched}

    print(f"{len(texts)} texts, {asked.threads} threads, {asked.rounds} rounds, precision {ours.manifest.precision}")
    print(f"{'':<24}{'pipeline':>12}{'communique':>12}{'ratio':>8}")
    rates = {name: len(texts) / statistics.median(values) for name, values in batched.items()}
    _row("texts a second", rates, rates["communique"] / rates["pipeline"])
    for title, share in (("one text, p50 ms", 0.50), ("one text, p99 ms", 0.99)):
        values = {name: 1000 * sorted(found)[int(share * len(found))] for name, found in single.items()}
        _row(title, values, values["pipeline"] / values["communique"])
    for title, place in (("cold first answer, s", 0), ("resident at most, MB", 1)):
        values = {name: statistics.median(one[place] for one in found) for name, found in fresh.items()}
        _row(title, values, values["pipeline"] / values["communique"])
    if ours.manifest.precision == "int8":
        reached, limit = products / statistics.median(batched["communique"]), statistics.median(possible)
        print(f"eight-bit products, 1e9 a second: {reached / 1e9:.0f} of {limit / 1e9:.0f}, {reached / limit:.0%}")
    if asked.wheel:
        whole, compiled = _installed(asked.wheel)
        print(f"wheel {asked.wheel.stat().st_size / 1e6:.1f} MB, installed with all that it asks for {whole:.0f} MB, "
              f"{compiled:.0f} of them bytecode that pip compiles and `pip --no-compile` and uv do not")  # fmt: skip


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _fresh(name: str, bundle: str, texts: Path) -> tuple[float, float]:
    """Of a fresh process: seconds to the first answer (the interpreter's own start included), and the megabytes that
    it held at most, many texts later."""
    make = {
        "communique": f"import communique; model = communique.load({bundle!r}); many = model",
        "pipeline": "from transformers import pipeline; from functools import partial; "
        f"model = pipeline('text-classification', model={bundle!r}, top_k=None, device='cpu'); "
        "many = partial(model, batch_size=32)",
    }[name]
    code = f"""
{make}
model('A text.')
print(flush=True)
import json
many([json.loads(line)["text"] for line in open({str(texts)!r}, encoding="utf-8")][:{BATCHED}])
print([int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""
    start = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        seconds = time.perf_counter() - start
        return seconds, int(process.stdout.readline()) * 1024 / 1e6


def _products(bundle: str, texts: list[str]) -> int:
    """Multiplications that the eight-bit matrices of a bundle take for the texts, padding included."""
    counted = communique.load(bundle, threads=1, precision="int8")
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as scratch:
        options.profile_file_prefix = f"{scratch}/profile"
        counted._session = onnxruntime.InferenceSession(counted._source.model, options)
        counted.predict_proba(texts)
        events = json.loads(Path(counted._session.end_profiling()).read_bytes())
    total = 0
    for event in events:
        if event["args"].get("op_name") == "MatMulIntegerToFloat" and "input_type_shape" in event["args"]:
            rows, sums = (event["args"][f"{end}_type_shape"][0].values() for end in ("input", "output"))
            total += int(np.prod(*rows)) * next(iter(sums))[-1]
    return total


def _multiplier(threads: int) -> Callable[[], float]:
    """Measures multiplications a second: onnxruntime's own eight-bit product in every thread, from the cache."""
    numbers = np.random.default_rng(0)
    matrix = numbers.integers(-127, 128, (INNER, COLUMNS), dtype=np.int8)
    rows = numbers.integers(0, 256, (ROWS, INNER), dtype=np.uint8)
    ends = [
        helper.make_tensor_value_info("rows", onnx.TensorProto.UINT8, rows.shape),
        helper.make_tensor_value_info("sums", onnx.TensorProto.INT32, (ROWS, COLUMNS)),
    ]
    node = helper.make_node("MatMulInteger", ["rows", "matrix"], ["sums"])
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], [onnx.numpy_helper.from_array(matrix, "matrix")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)

    def work(_: int) -> None:
        for _ in range(500):
            session.run(None, {"rows": rows})

    def measure() -> float:
        with ThreadPoolExecutor(threads) as pool:
            seconds = _seconds(lambda: list(pool.map(work, range(threads))))
        return threads * 500 * ROWS * INNER * COLUMNS / seconds

    return measure


def _installed(wheel: Path) -> tuple[float, float]:
    """Megabytes of an empty virtual environment once the wheel is in it, pip itself not counted; of which bytecode."""
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=False)
        command = [sys.executable, "-m", "pip", "--python", f"{scratch}/bin/python", "install", "--quiet"]
        subprocess.run([*command, "-c", ROOT / "constraints.txt", wheel], check=True, stderr=subprocess.DEVNULL)
        sizes = {file: file.lstat().st_size / 1e6 for file in Path(scratch).rglob("*") if file.is_file()}
        return sum(sizes.values()), sum(size for file, size in sizes.items() if file.suffix == ".pyc")


def _row(title: str, values: dict[str, float], ratio: float) -> None:
    print(f"{title:<24}{values['pipeline']:>12.2f}{values['communique']:>12.2f}{ratio:>7.1f}x")


if __name__ == "__main__":
    main()
