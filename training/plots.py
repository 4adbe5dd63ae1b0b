"""Every figure: of a run, drawn from what lies in its folder, and of a corpus."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from training.corpus import Corpus

COLOURS = (
    "#0072b2",
    "#e69f00",
    "#d55e00",
    "#cc79a7",
    "#009e73",
    "#56b4e9",
)  # Okabe and Ito: safe for colour-blind
MAX_LABELS = 12  # more curves than this in one figure cannot be told apart


def draw_run(folder: Path, labels: Sequence[str], task: str) -> None:
    """Writes history.png, precision_recall.png and reliability.png into the run's `figures/`."""
    target = folder / "figures"
    target.mkdir(exist_ok=True)
    if (folder / "history.jsonl").exists():
        rows = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
        _history(rows, target / "history.png")
    truth, probabilities = _predictions(folder / "predictions" / "test.jsonl", labels)
    _precision_recall(truth, probabilities, labels[:MAX_LABELS], target / "precision_recall.png")
    _reliability(truth, probabilities, labels[:MAX_LABELS], target / "reliability.png")


def draw_corpus(target: Path, data: Corpus, realism: Mapping[str, Any] | None = None) -> None:
    """Writes lengths.png, labels.png and, where there is a comparison, betraying_words.png into the folder `target`.

    Args:
        target: a folder that is there.
        data: the corpus.
        realism: `training.probe.Realism` as a dict; None removes an older figure of it.
    """
    _lengths(data, target / "lengths.png")
    _labels(data, target / "labels.png")
    if realism:
        _betraying_words(realism, target / "betraying_words.png")
    else:
        (target / "betraying_words.png").unlink(missing_ok=True)


def _lengths(data: Corpus, path: Path) -> None:
    figure, axis = plt.subplots(figsize=(6, 3.4))
    lengths = {split.name: [len(text.split()) for text in split.texts] for split in data.splits}
    longest = int(np.percentile(np.concatenate(list(lengths.values())), 99.5)) + 1  # one endless text hides the rest
    width = longest // 30 + 1  # whole words, or bars of two lengths stand beside bars of one
    edges = [edge * width for edge in range(longest // width + 2)]
    for (name, values), colour in zip(lengths.items(), COLOURS, strict=False):
        shares = np.full(len(values), 1 / len(values))
        axis.hist(np.minimum(values, longest), edges, weights=shares, histtype="step", color=colour, label=name)
    axis.set(xlabel="words a text", ylabel="share of the split")
    axis.legend(frameon=False)
    _save(figure, path)


def _labels(data: Corpus, path: Path) -> None:
    names = [*data.labels, *(["none"] if data.task == "multi_label" else [])]
    figure, axis = plt.subplots(figsize=(7, 1.2 + 0.55 * len(names)))
    places = np.arange(len(names))
    for i, split in enumerate(data.splits):
        counts = [*split.truth.sum(axis=0).tolist(), int((~split.truth.any(axis=1)).sum())][: len(names)]
        bars = axis.barh(places + (i - 1) * 0.27, counts, 0.25, color=COLOURS[i], label=split.name)
        axis.bar_label(bars, [f"{count} ({count / len(split):.0%})" for count in counts], padding=2, fontsize=7)
    axis.set_yticks(places, names)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_xlabel("texts (share of the split)")
    axis.legend(frameon=False)
    _save(figure, path)


def _betraying_words(realism: Mapping[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(8, 6))
    for axis, side, colour in zip(axes, ("corpus", "outside"), (COLOURS[0], COLOURS[2]), strict=True):
        words = realism[side]
        axis.barh(range(len(words)), [abs(one["weight"]) for one in words], color=colour)
        axis.set_yticks(range(len(words)), [one["word"] for one in words], fontsize=8)
        axis.invert_yaxis()
        axis.set(xlabel="weight", title="words of the corpus" if side == "corpus" else "words of outside texts")
    figure.suptitle(f"Told apart by words with AUC {realism['auc']:.3f}")
    _save(figure, path)


def _predictions(path: Path, labels: Sequence[str]) -> tuple[Any, Any]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    truth = np.array([[label in row["intents"] for label in labels] for row in rows])
    return truth, np.array([row["probabilities"] for row in rows])


def _history(rows: list[dict[str, Any]], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    epochs = [row["epoch"] for row in rows]
    for name, axis, colour in (
        ("train/loss", left, COLOURS[0]), ("val/loss", left, COLOURS[2]),
        ("val/macro_f1", right, COLOURS[2]), ("val/macro_ap", right, COLOURS[4]),
    ):  # fmt: skip
        axis.plot(epochs, [row[name] for row in rows], marker="o", markersize=3, color=colour, label=name)
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.legend(frameon=False)
    _save(figure, path)


def _precision_recall(truth: Any, probabilities: Any, labels: Sequence[str], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(5, 4.4))
    for i, label in enumerate(labels):
        if truth[:, i].any():
            precision, recall, _ = precision_recall_curve(truth[:, i], probabilities[:, i])
            area = average_precision_score(truth[:, i], probabilities[:, i])
            axis.plot(recall, precision, color=COLOURS[i % len(COLOURS)], label=f"{label} {area:.2f}")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="Test split")
    axis.legend(frameon=False, title="average precision")
    _save(figure, path)


def _reliability(truth: Any, probabilities: Any, labels: Sequence[str], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(5, 4.4))
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    edges = np.linspace(0, 1, 11)
    for i, label in enumerate(labels):
        places = np.clip(np.digitize(probabilities[:, i], edges) - 1, 0, 9)
        filled = [b for b in range(10) if (places == b).sum() >= 5]
        said = [probabilities[places == b, i].mean() for b in filled]
        found = [truth[places == b, i].mean() for b in filled]
        axis.plot(said, found, marker="o", markersize=3, color=COLOURS[i % len(COLOURS)], label=label)
    axis.set(xlabel="probability given", ylabel="share that is so", xlim=(0, 1), ylim=(0, 1), title="Test split")
    axis.legend(frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
