"""Leave one group out: every group of a labelled file is the test split once, a config trained on all the others.

    python benchmarks/leave_one_group_out.py FILE CONFIG… --text text --labels label --group group [--set KEY=VALUE]

Validation is cut from the other groups at random; the held-out group is seen by nothing. Prints macro-F1 a group and
over all groups' predictions together.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score

from training import config, corpus, importer, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="CSV")
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--text", default="text")
    parser.add_argument("--labels", default="label")
    parser.add_argument("--group", default="group")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    with asked.file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    groups = sorted({row[asked.group] for row in rows})
    for name in asked.configs:
        every: list[tuple[str, str]] = []
        for group in groups:
            pairs = _held_out(rows, group, name, asked)
            every += pairs
            print(f"{name}  {group}: macro-F1 {_macro_f1(pairs):.3f}, {len(pairs)} texts", flush=True)
        print(f"{name}  all groups: macro-F1 {_macro_f1(every):.3f}, {len(every)} texts", flush=True)


def _held_out(
    rows: Sequence[dict[str, str]], group: str, name: str, asked: argparse.Namespace
) -> list[tuple[str, str]]:
    """Truth and prediction of each text of `group`, by a model trained on all the others."""
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        _write(here / "train.csv", [row for row in rows if row[asked.group] != group])
        _write(here / "test.csv", [row for row in rows if row[asked.group] == group])
        files = {"train": here / "train.csv", "test": here / "test.csv"}
        folder = importer.convert(files, importer.Columns(asked.text, asked.labels), here / "corpus")
        settings = config.load(name, [*asked.overrides, f"corpus={folder}"])
        run = train.train(settings, here / "run", track=False)
        labels = corpus.load(folder).labels
        lines = (run / "predictions/test.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
    return [(row["intents"][0], labels[int(np.argmax(row["probabilities"]))]) for row in found]


def _macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    truth, said = zip(*pairs, strict=True)
    return float(f1_score(truth, said, average="macro"))


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
