"""Training speed against a stock Hugging Face Trainer and SetFit, in one run: same encoder, texts, epochs, threads.

    python benchmarks/training_speed.py [--limit 2000] [--epochs 3] [--rounds 2] [--peers stock setfit]

Each training runs in a process of its own, in turn, so that a noisy machine is noisy for all. The ratio is what
counts; macro-F1 stands beside it because speed bought with accuracy is no speed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2, help="seeds, one a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="+", default=["stock", "stock-default", "setfit"])
    asked = parser.parse_args()
    names = ["communique", *asked.peers]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    common = ["--limit", asked.limit, "--epochs", asked.epochs, "--threads", asked.threads]
    for seed in range(1, asked.rounds + 1):
        for name in names:
            found[name].append(trained(name, *common, "--seed", seed))
    print(f"{asked.limit} texts, {asked.epochs} epochs, {asked.threads} threads, seeds 1 to {asked.rounds}")
    print(f"{'':<16}{'seconds':>9}{'against ours':>14}{'peak MiB':>10}{'test macro-F1':>15}{'calibrated':>12}")
    ours = statistics.median(result["seconds"] for result in found["communique"])
    for name, results in found.items():
        seconds = statistics.median(result["seconds"] for result in results)
        means = [statistics.fmean(result[key] for result in results) for key in ("test/half", "test/calibrated")]
        peak = max(result["peak_mib"] for result in results)
        print(f"{name:<16}{seconds:>9.0f}{seconds / ours:>13.1f}x{peak:>10}{means[0]:>15.3f}{means[1]:>12.3f}")


def trained(name: str, *arguments: object) -> dict[str, Any]:
    """One contestant in a process of its own; its line of JSON."""
    command = [sys.executable, "-W", "ignore", str(HERE / "contestants.py"), name, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: failed; run it by itself: {' '.join(command)}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
