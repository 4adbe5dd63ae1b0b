"""Seconds and memory for corpora of 10,000 to 1,000,000 statements: import, load, tokenise.

    python benchmarks/large_corpus.py [--sizes 10000 100000 1000000]

The statements are the composed ones over and over, each with a number before it. Every step runs in a process of its
own, whose peak of resident memory is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parent.parent
STEPS = ("import", "load", "tokenise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--step", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        measure(asked.step[0], Path(asked.step[1]))
        return
    print(f"{'texts':>9}" + "".join(f"{step + ' s':>12}{'MiB':>7}" for step in STEPS))
    for size in asked.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            write(Path(scratch) / "statements.jsonl", size)
            row = f"{size:>9,}"
            for step in STEPS:
                command = [sys.executable, str(HERE), "--step", step, scratch]
                done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
                seconds, peak = json.loads(done.stdout.splitlines()[-1])
                row += f"{seconds:>12.1f}{peak:>7}"
            print(row, flush=True)


def write(file: Path, size: int) -> None:
    """Makes `size` different statements, five a group."""
    lines = (ROOT / "datasets" / "statements" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    with file.open("w", encoding="utf-8") as stream:
        for number in range(size):
            row = rows[number % len(rows)]
            new = {"text": f"{number}. {row['text']}", "labels": row["intents"], "group": f"group-{number // 5}"}
            stream.write(json.dumps(new) + "\n")


def measure(step: str, folder: Path) -> None:
    """Runs one step in this process; prints seconds and its peak in MiB as JSON."""
    sys.path.insert(0, str(ROOT))
    start = time.perf_counter()
    if step == "import":
        from training.importer import Columns, convert

        convert({"train": folder / "statements.jsonl"}, Columns("text", "labels", "group"), folder / "corpus")
    else:
        from training import corpus

        data = corpus.load(folder / "corpus")
        if step == "tokenise":
            start = time.perf_counter()
            from training import batches, pretrained

            _, tokenizer = pretrained.load(pretrained.EMBEDDED, 128, 0.0, data)
            rows = batches.tokenised(tokenizer, data.train.texts, 128)
            assert len(rows) == len(data.train)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps([time.perf_counter() - start, peak]))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main()
