"""A comparison of runs in words: sentences, a table for the terminal, Markdown, plain values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from training.significance import MACRO, ROUNDS, Comparison, Difference, Standing


def plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values, with the verdicts in words."""
    differences = [{**asdict(one), "real": one.real, "words": words(one, comparison)} for one in comparison.differences]
    return {**asdict(comparison), "differences": differences, "notes": notes(comparison)}


def words(one: Difference, comparison: Comparison) -> str:
    """A difference and whether it is real, as a sentence."""
    better, worse = (one.first, one.second) if one.difference >= 0 else (one.second, one.first)
    high, low = max(one.first_value, one.second_value), min(one.first_value, one.second_value)
    bounds = (one.low, one.high) if one.difference >= 0 else (-one.high, -one.low)
    measure = one.measure if one.measure == MACRO else f"F1 of {one.measure}"
    figures = (
        f"on {comparison.split}: {measure} {high:.3f} vs {low:.3f}, difference {abs(one.difference):.3f} "
        f"[{bounds[0]:.3f}, {bounds[1]:.3f}], {_p(one.corrected)} ({_after(one)})"
    )
    if one.real:
        return f"{better} is better than {worse} {figures}: real."
    return f"{better} and {worse} {figures}: no difference that these {comparison.texts:,} texts can show."


def notes(comparison: Comparison) -> list[str]:
    """What the figures do not say."""
    result = [
        f"Intervals are 95%, over texts, each by itself; ± is the deviation over seeds. p: paired bootstrap, "
        f"{ROUNDS:,} draws of {comparison.scenarios:,} scenarios (texts are drawn, not trainings), corrected over all "
        "pairs, because who leads was read off the same texts."
    ]
    if single := [one.name for one in comparison.ranking if one.seeds == 1]:
        result.append(
            f"One training only: {', '.join(single)}. Whether another seed would change the order is not tested; "
            "train with --seeds."
        )
    if comparison.split == "validation":
        result.append("Validation chose every run's epoch and thresholds: decide on test.")
    return result


def table(comparison: Comparison) -> str:
    """The comparison for a terminal."""
    labels = list(comparison.ranking[0].f1)
    width = max(len(one.name) for one in comparison.ranking)
    head = f"{comparison.split}: {comparison.texts:,} texts in {comparison.scenarios:,} scenarios"
    lines = [head, f"    {'':<{width}}  {MACRO:<38}" + "".join(f"{label[:12]:>13}" for label in labels)]
    for place, standing in enumerate(comparison.ranking, 1):
        cells = "".join(f"{standing.f1[label]:>13.3f}" for label in labels)
        lines.append(f"{place:>3} {standing.name:<{width}}  {_score(standing):<38}{cells}")
    for one in comparison.against_leader:
        if one.measure == MACRO:
            lines += ["", words(one, comparison)]
        else:
            lines.append(f"  {one.measure:<14}{_figures(one)}  {_verdict(one)}")
    return "\n".join([*lines, "", *notes(comparison)])


def markdown(comparison: Comparison) -> str:
    """The comparison for a page."""
    labels = list(comparison.ranking[0].f1)
    lines = [
        f"# {comparison.split}: {comparison.texts:,} texts in {comparison.scenarios:,} scenarios",
        "",
        f"| run | {MACRO} | " + " | ".join(labels) + " |",
        "|---|" + "---|" * (1 + len(labels)),
    ]
    for standing in comparison.ranking:
        cells = " | ".join(f"{standing.f1[label]:.3f}" for label in labels)
        lines.append(f"| {standing.name} | {_score(standing)} | {cells} |")
    lines += ["", *(f"* {words(one, comparison)}" for one in comparison.against_leader if one.measure == MACRO)]
    lines += ["", "| better? | in | F1s | difference | p after Holm | verdict |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {one.first}, {one.second} | {one.measure} | {one.first_value:.3f}, {one.second_value:.3f} | "
        f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}] | {one.corrected:.4f} | {_verdict(one)} |"
        for one in comparison.differences
    ]
    return "\n".join([*lines, "", *(f"{note}\n" for note in notes(comparison))])


def _score(one: Standing) -> str:
    spread = f" ± {one.std:.3f} ({one.seeds} seeds)" if one.std is not None else ""
    return f"{one.macro_f1:.3f} [{one.low:.3f}, {one.high:.3f}]{spread}"


def _figures(one: Difference) -> str:
    return (
        f"{one.first_value:.3f} vs {one.second_value:.3f}  {one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]  "
        f"{_p(one.corrected)} ({_after(one)})"
    )


def _verdict(one: Difference) -> str:
    if not one.real:
        return "no difference shown"
    return f"{one.first if one.difference > 0 else one.second} is better"


def _after(one: Difference) -> str:
    return f"Holm over {one.comparisons} comparison{'s' if one.comparisons > 1 else ''}"


def _p(value: float) -> str:
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.4f}"
