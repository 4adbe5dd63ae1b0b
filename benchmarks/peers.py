"""What other trainers make of the same corpus: same splits, same encoder where they take one, several seeds.

    python benchmarks/peers.py [--on FILE.jsonl] [--seeds 3] [--names communique setfit spacy tfidf]

Macro-F1 on the test split and on FILE, at the threshold of 0.5 that the peers ship with and with this project's
calibration lent to them. Takes the better part of two hours on two cores: run it alone.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from training_speed import trained

NAMES = ["tfidf", "spacy", "setfit", "stock-default", "communique"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="datasets/statements")
    parser.add_argument("--on", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--names", nargs="+", default=NAMES)
    asked = parser.parse_args()
    arguments = ["--corpus", asked.corpus, *(["--on", asked.on] if asked.on else [])]
    splits = ["test", *([asked.on.stem] if asked.on else [])]
    columns = [f"{split}/{how}" for split in splits for how in ("half", "calibrated")]
    print(f"{'':<16}{'seconds':>9}{'peak MiB':>10}" + "".join(f"{column:>24}" for column in columns), flush=True)
    for name in asked.names:
        results = [trained(name, *arguments, "--seed", seed) for seed in range(1, asked.seeds + 1)]
        cells = [[result[column] for result in results] for column in columns]
        spread = [f"{statistics.fmean(c):.3f} ± {statistics.stdev(c) if len(c) > 1 else 0:.3f}" for c in cells]
        seconds = statistics.median(result["seconds"] for result in results)
        peak = max(result["peak_mib"] for result in results)
        print(f"{name:<16}{seconds:>9.0f}{peak:>10}" + "".join(f"{cell:>24}" for cell in spread), flush=True)


if __name__ == "__main__":
    main()
