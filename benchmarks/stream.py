"""`Classifier.stream` over many texts: does memory stay flat, time linear, and the order kept.

    python benchmarks/stream.py [BUNDLE] [--texts 100000] [--threads 2]

The corpus is shuffled and cycled. A tenth is a whole number of the chunks that are classified together, so that each
holds the same work; the number of texts is rounded up to that. Memory is the process' peak so far: flat means that
nothing grows. Processor seconds are linear also where a busy machine makes the clock's uneven.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import communique
from communique.classifier import CHUNK

TENTHS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", default="bundles/model")
    parser.add_argument("--corpus", type=Path, default=Path("datasets/statements"))
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    lines = [line for file in sorted(asked.corpus.glob("*.jsonl")) for line in file.open(encoding="utf-8")]
    corpus = [json.loads(line)["text"] for line in lines]
    random.Random(1).shuffle(corpus)
    part = CHUNK * max(-(-asked.texts // (TENTHS * CHUNK)), 1)

    def texts() -> Iterator[str]:
        return islice(cycle(corpus), TENTHS * part)

    classifier = communique.load(asked.bundle, threads=asked.threads)
    print(f"{TENTHS * part:,} texts, {asked.threads} threads, precision {classifier.manifest.precision}")
    print(f"loaded: {_peak():.0f} MiB")
    print(f"{'texts':>10}{'seconds':>10}{'processor':>11}{'peak MiB':>10}", flush=True)
    found, worked, peaks = classifier.stream(texts()), [], []
    expected, wrong = texts(), 0
    for tenth in range(1, TENTHS + 1):
        start, busy = time.perf_counter(), time.process_time()
        for statement in islice(found, part):
            wrong += statement.text != next(expected)
        seconds = time.perf_counter() - start
        worked.append(time.process_time() - busy)
        peaks.append(_peak())
        print(f"{tenth * part:>10,}{seconds:>10.1f}{worked[-1]:>11.1f}{peaks[-1]:>10.0f}", flush=True)
    print(f"most processor time for a tenth over least: {max(worked) / min(worked):.2f}; out of order: {wrong}")
    print(f"peak at 100% over peak at 10%: {peaks[-1] - peaks[0]:+.0f} MiB")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
