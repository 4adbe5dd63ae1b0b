"""The runtime against `transformers.pipeline`, in one run, on the same texts, with the same threads.

    python benchmarks/inference.py [BUNDLE] [--texts FILE.jsonl] [--threads 2] [--rounds 5]

Rounds alternate between the two, so that a noisy machine is noisy for both; ratios are what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

BATCHED, SINGLE = 1000, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", default="bundles/model")
    parser.add_argument("--texts", type=Path, default=Path("datasets/statements/test.jsonl"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    texts = [json.loads(line)["text"] for line in asked.texts.read_text(encoding="utf-8").splitlines()][:BATCHED]

    import torch
    from transformers import pipeline
    from transformers.utils import logging

    import communique

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
    for _ in range(asked.rounds):
        batched["pipeline"].append(_seconds(lambda: peer(texts, batch_size=32)))
        batched["communique"].append(_seconds(lambda: ours.predict_proba(texts)))
        single["pipeline"] += alone(peer)
        single["communique"] += alone(ours)
    cold = {name: [_cold(name, asked.bundle) for _ in range(3)] for name in ("pipeline", "communique")}

    print(f"{len(texts)} texts, {asked.threads} threads, {asked.rounds} rounds, precision {ours.manifest.precision}")
    print(f"{'':<24}{'pipeline':>12}{'communique':>12}{'ratio':>8}")
    rates = {name: len(texts) / statistics.median(values) for name, values in batched.items()}
    _row("texts a second", rates, rates["communique"] / rates["pipeline"])
    for title, share in (("one text, p50 ms", 0.50), ("one text, p99 ms", 0.99)):
        values = {name: 1000 * sorted(found)[int(share * len(found))] for name, found in single.items()}
        _row(title, values, values["pipeline"] / values["communique"])
    starts = {name: statistics.median(found) for name, found in cold.items()}
    _row("cold first answer, s", starts, starts["pipeline"] / starts["communique"])


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cold(name: str, bundle: str) -> float:
    """Import, load and first answer in a fresh process, the interpreter's own start included."""
    code = {
        "communique": f"import communique; communique.load({bundle!r})('A text.')",
        "pipeline": "from transformers import pipeline; "
        f"pipeline('text-classification', model={bundle!r}, top_k=None, device='cpu')('A text.')",
    }[name]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    return time.perf_counter() - start


def _row(title: str, values: dict[str, float], ratio: float) -> None:
    print(f"{title:<24}{values['pipeline']:>12.2f}{values['communique']:>12.2f}{ratio:>7.1f}x")


if __name__ == "__main__":
    main()
