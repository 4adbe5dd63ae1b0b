"""Every figure: of a run, drawn from what lies in its folder, and of a corpus."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.analysis import Analysis, Predictions, Slice
from training.corpus import Corpus
from training.significance import MACRO, Comparison

plt.rcParams["text.parse_math"] = False  # a label with a dollar sign is a label

COLOURS = (
    "#0072b2",
    "#e69f00",
    "#d55e00",
    "#cc79a7",
    "#009e73",
    "#56b4e9",
)  # Okabe and Ito: safe for colour-blind
MARKERS = ("o", "s", "^", "D", "v", "P")
MAX_LABELS = 12  # more curves than this in one figure cannot be told apart
MAX_SLICES = 60
_PAIR = (("macro_f1", "o", COLOURS[2]), ("exact_match", "s", COLOURS[0]))


def draw_corpus(target: Path, data: Corpus, realism: Mapping[str, Any] | None = None) -> None:
    """Writes lengths.png, labels.png and, where there is a comparison, betraying_words.png into the folder `target`.

    Args:
        target: a folder that is there.
        data: the corpus.
        realism: `training.realism.Realism` as a dict; None removes an older figure of it.
    """
    _lengths(data, target / "lengths.png")
    _labels(data, target / "labels.png")
    if realism:
        _betraying_words(realism, target / "betraying_words.png")
    else:
        (target / "betraying_words.png").unlink(missing_ok=True)


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Writes a forest plot of what separates the leader from each other run; a filled point is a real difference."""
    rows = [
        one for one in comparison.against_leader if one.measure in (MACRO, *list(comparison.ranking[0].f1)[:MAX_LABELS])
    ]
    figure, axis = plt.subplots(figsize=(7, 1.3 + 0.26 * len(rows)))
    axis.axvline(0, color="0.7", linewidth=1)
    for place, one in enumerate(rows):
        colour = COLOURS[0] if one.measure == MACRO else COLOURS[4]
        axis.errorbar(
            one.difference, place, xerr=[[one.difference - one.low], [one.high - one.difference]], fmt="o",
            color=colour, markerfacecolor=colour if one.real else "white", markersize=5, capsize=2,
        )  # fmt: skip
    axis.set_yticks(
        range(len(rows)), [f"{one.second}: {one.measure}" if one.measure == MACRO else one.measure for one in rows]
    )
    axis.invert_yaxis()
    axis.set(
        xlabel=f"F1 of {comparison.ranking[0].name} less the other's, 95% interval (filled: real after Holm)",
        title=f"{comparison.split}: {comparison.texts:,} texts",
    )
    save(figure, path)


def draw_sweep(
    trials: Sequence[Mapping[str, Any]], objective: str, importances: Mapping[str, float], target: Path
) -> None:
    """Writes trials.png and, where there are importances, importances.png into the folder `target`.

    Args:
        trials: `number`, `value` and `state` ("finished" or "pruned") of each, in their order.
        objective: name of the values.
        importances: share of each key, the largest first.
        target: is made where it is missing.
    """
    target.mkdir(exist_ok=True)
    _trials(trials, objective, target / "trials.png")
    if importances:
        _importances(importances, target / "importances.png")


def _trials(trials: Sequence[Mapping[str, Any]], objective: str, path: Path) -> None:
    figure, axis = plt.subplots(figsize=(6, 3.4))
    for state, colour, marker in (("finished", COLOURS[0], "o"), ("pruned", COLOURS[1], "x")):
        shown = [one for one in trials if one["state"] == state]
        if shown:
            numbers, values = [one["number"] for one in shown], [one["value"] for one in shown]
            axis.scatter(numbers, values, s=18, color=colour, marker=marker, label=state)
            if state == "finished":
                axis.step(numbers, np.maximum.accumulate(values), where="post", color=COLOURS[4], label="best so far")
    axis.set(xlabel="trial", ylabel=objective)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False)
    save(figure, path)


def _importances(importances: Mapping[str, float], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(6, 1 + 0.35 * len(importances)))
    bars = axis.barh(range(len(importances)), list(importances.values()), color=COLOURS[0])
    axis.bar_label(bars, [f"{value:.2f}" for value in importances.values()], padding=2, fontsize=8)
    axis.set_yticks(range(len(importances)), list(importances))
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel("share of the differences between finished trials")
    save(figure, path)


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
    save(figure, path)


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
    save(figure, path)


def _betraying_words(realism: Mapping[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(8, 6))
    for axis, side, colour in zip(axes, ("corpus", "outside"), (COLOURS[0], COLOURS[2]), strict=True):
        words = realism[side]
        axis.barh(range(len(words)), [abs(one["weight"]) for one in words], color=colour)
        axis.set_yticks(range(len(words)), [one["word"] for one in words], fontsize=8)
        axis.invert_yaxis()
        axis.set(xlabel="weight", title="words of the corpus" if side == "corpus" else "words of outside texts")
    figure.suptitle(f"Told apart by words with AUC {realism['auc']:.3f}")
    save(figure, path)


def history(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Losses and validation figures over the epochs, from the lines of a run's `history.jsonl`."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for name, axis, colour in (
        ("train/loss", left, COLOURS[0]), ("val/loss", left, COLOURS[2]),
        ("val/macro_f1", right, COLOURS[2]), ("val/macro_ap", right, COLOURS[4]),
    ):  # fmt: skip
        known = [row for row in rows if name in row]
        epochs, values = [row["epoch"] for row in known], [row[name] for row in known]
        axis.plot(epochs, values, marker="o", markersize=3, color=colour, label=name)
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(frameon=False)
    return figure


def precision_recall(found: Predictions) -> Figure:
    """Precision over recall, a line a label."""
    figure, axis = plt.subplots(figsize=(5, 4.2))
    for i, label in enumerate(found.labels[:MAX_LABELS]):
        truth, values = found.truth[:, i], found.probabilities[:, i]
        if truth.any():
            precision, recall, _ = precision_recall_curve(truth, values)
            area = average_precision_score(truth, values)
            axis.plot(recall, precision, color=COLOURS[i % len(COLOURS)], label=f"{label} {area:.2f}")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=f"{found.name}: precision, recall")
    if found.truth[:, :MAX_LABELS].any():
        axis.legend(frameon=False, title="average precision")
    return figure


def reliability(found: Predictions) -> Figure:
    """Probability given against the share that is so, in ten bins of at least five texts; larger marks, more texts."""
    figure, axis = plt.subplots(figsize=(5, 4.2))
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    edges = np.linspace(0, 1, 11)
    for i, label in enumerate(found.labels[:MAX_LABELS]):
        truth, values = found.truth[:, i], found.probabilities[:, i]
        places = np.clip(np.digitize(values, edges) - 1, 0, 9)
        filled = [b for b in range(10) if (places == b).sum() >= 5]
        said = [values[places == b].mean() for b in filled]
        so = [truth[places == b].mean() for b in filled]
        sizes = [8 + 2 * (places == b).sum() ** 0.5 for b in filled]
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axis.plot(said, so, color=colour, linewidth=0.8)
        axis.scatter(said, so, sizes, color=colour, marker=marker, label=label, zorder=3)
    axis.set(xlabel="probability given", ylabel="share that is so", xlim=(0, 1), ylim=(0, 1.02))
    axis.set_title(f"{found.name}: reliability")
    axis.legend(frameon=False)
    return figure


def coverage(result: Analysis) -> Figure:
    """Macro-F1 and exact match of what is answered, over the share that is answered."""
    figure, axis = plt.subplots(figsize=(5, 4.2))
    shares = [point.answered for point in result.coverage]
    for name, marker, colour in _PAIR:
        values = np.array([getattr(point, name) for point in result.coverage], dtype=np.float64)
        axis.plot(shares, values, marker, linestyle="-", markersize=4, color=colour, label=name)
    axis.set(xlabel="share answered, the surest first", ylabel="figure over these", xlim=(0, 1.02))
    axis.set_title(f"{result.name}: coverage")
    axis.legend(frameon=False)
    return figure


def slices(result: Analysis) -> Figure:
    """Macro-F1 of each slice with its interval, and exact match beside it."""
    shown = result.slices[:MAX_SLICES]
    figure, axis = plt.subplots(figsize=(7, 1.4 + 0.24 * len(shown)))
    for place, one in enumerate(shown):
        if one.macro_f1_low is not None and one.macro_f1_high is not None:
            axis.plot([one.macro_f1_low, one.macro_f1_high], [place, place], color=COLOURS[2], linewidth=1.2)
    for name, marker, colour in _PAIR:
        values = np.array([getattr(one, name) for one in shown], dtype=np.float64)
        axis.plot(values, range(len(shown)), marker, markersize=4, color=colour, label=name)
    axis.set_yticks(range(len(shown)), [_titled(one) for one in shown], fontsize=8)
    axis.invert_yaxis()
    axis.grid(axis="x", color="0.85", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_title(f"{result.name}: slices")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as PNG."""
    path.parent.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def svg(figure: Figure) -> str:
    """A saved figure as SVG to be set into a page, which gives its text colour and `--blue`."""
    stream = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "communique"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    # what only a file of its own needs, and ids that a second drawing on the page would repeat
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text)
    text = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"| id="[a-z0-9]+_[0-9]+"', "", text)
    return text.replace("#000000", "currentColor").replace(COLOURS[0], "var(--blue)")


def _titled(one: Slice) -> str:
    return f"{'' if one.field == 'all' else one.field + ': '}{one.value} ({one.texts})"
