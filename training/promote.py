"""The gate between challenger and champion: five checks, each with its limit here, and what follows from them.

What is judged is what would ship: the exported bundles, on the challenger's test split and on today's behavioural
suites, the champion's beside the challenger's in one process. Country bias is the run's own report, made where it is
missing.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import communique
from communique import Classifier
from communique.bundle import Manifest
from training import actors, behaviour, bias, config, registry, run, significance, tracking
from training import corpus as corpora
from training.console import say
from training.corpus import Split
from training.errors import RunError
from training.significance import Counts

MARGIN = 0.02  # macro-F1 on test that a challenger may lose, with 97.5% certainty that it loses no more
MIN_BEHAVIOUR = 0.85  # of the cases of each suite
MAX_BEHAVIOUR_DROP = 0.02  # of each suite, below the champion
MIN_UNCHANGED = 0.95  # of the swaps of states; the aim is higher, see training/bias.py
MAX_SHIFT = 0.03  # of a label's mean probability by a state; the aim is lower
MAX_SLOWDOWN = 1.5  # times the champion's median time for one text
TIMED = 100  # texts of the test split, one at a time
BIAS_TEXTS = 120  # in which every state is tried, as the `bias` command does


@dataclass(frozen=True)
class Check:
    """One check of the gate: its name, whether it passed, and figures and limits in words."""

    name: str
    passed: bool
    words: str


def command(target: str, output: Path, model: str, force: str | None) -> int:
    """The `promote` command: 0 where the champion was moved or is this one already, 1 where the gate refused.

    Raises:
        RunError, BundleError, TrackingError: see their messages.
    """
    if force is not None and not force.strip():
        raise RunError("--force: expected the reason, found nothing; it is kept with the version.")
    from training.export import export  # torch, which going back does not need

    folder = run.find_one(target)
    run_id = tracking.log(folder)
    bundle = export(folder, output)
    say("registering …")
    challenger = registry.register(model, bundle, run_id)
    champion = registry.holder(model, registry.CHAMPION)
    if champion and champion.number == challenger.number:
        registry.crown(challenger)
        say(f"{_named(challenger)} is the champion of {model} already.")
        return 0
    say(f"challenger of {model}: {_named(challenger)}{', registered before' if challenger.reused else ''}")
    say(f"champion of {model}: {_named(champion) if champion else 'none yet'}")
    say("checking …")
    with tempfile.TemporaryDirectory(prefix="communique-champion-") as scratch:
        against = communique.load(registry.fetch(champion, Path(scratch)), threads=1) if champion else None
        checks = gate(folder, communique.load(bundle, threads=1), against)
    for check in checks:
        say(f"{'passed' if check.passed else 'FAILED'}  {check.name:<10} {check.words}")
    failed = [check.name for check in checks if not check.passed]
    outcome = "passed" if not failed else "forced" if force else "failed"
    tags = {"gate": outcome, "gate.failed": ", ".join(failed) or "none"}
    if failed and force:
        tags |= {"gate.forced": force, "gate.forced_over": _named(champion) if champion else "none"}
    registry.note(challenger, tags, _described(checks, outcome, force))
    if failed and not force:
        stays = f"{_named(champion)} stays champion" if champion else "there is still no champion"
        say(f"not promoted, for {', '.join(failed)}: {stays}. To overrule the gate: --force REASON")
        return 1
    registry.crown(challenger)
    say(f"champion of {model} is now {_named(challenger)}" + (f", by force: {force}" if failed else ""))
    return 0


def rollback(model: str) -> int:
    """The `rollback` command."""
    lost, back = registry.rollback(model)
    say(f"champion of {model} is again {_named(back)}; it was {_named(lost)}")
    return 0


def gate(folder: Path, challenger: Classifier, champion: Classifier | None) -> list[Check]:
    """Every check, in order.

    Args:
        folder: the challenger's run.
        challenger: its bundle, loaded.
        champion: the bundle to beat; None where there is none, and what compares with it passes.
    """
    test = corpora.load(config.load(folder / "config.yaml").corpus).test
    return [
        accurate(challenger, champion, test),
        behaves(*(_behaviour(one) if one else None for one in (challenger, champion))),
        unbiased(_bias(folder, test)),
        keeps_eight_bits(challenger.manifest),
        fast(challenger, champion, test.texts[:TIMED]),
    ]


def accurate(challenger: Classifier, champion: Classifier | None, test: Split) -> Check:
    """Macro-F1 on test is not worse than the champion's by more than `MARGIN`.

    A test of non-inferiority: the lower end of the difference's 95% interval must lie above the margin, so that few
    texts are no excuse (Walker and Nowacki 2011, "Understanding Equivalence and Noninferiority Testing"). A champion
    that was trained on these texts has an advantage: a new test split takes texts of no older training.
    """
    ours = _counted(challenger, test)
    found = ours.macro_f1_by_seed()[0]
    if champion is None:
        return Check("test", True, f"macro-F1 {found:.3f}; no champion to compare with")
    if (challenger.classes_, challenger.manifest.task) != (champion.classes_, champion.manifest.task):
        others = f"the champion has other labels ({', '.join(champion.classes_)}); name another registry entry, --model"
        return Check("test", False, others)
    if (scenarios := len(ours.support)) < significance.MIN_SCENARIOS:
        least = significance.MIN_SCENARIOS
        return Check("test", False, f"the test split has {scenarios} scenarios, too few to tell (at least {least})")
    theirs = _counted(champion, test)
    difference, half, _ = significance.resample([ours, theirs]).differences(0, 1)
    low, high = difference[0] - half[0], difference[0] + half[0]
    return Check(
        "test",
        bool(low >= -MARGIN),
        f"macro-F1 {found:.3f}, the champion's {theirs.macro_f1_by_seed()[0]:.3f}: {difference[0]:+.3f} "
        f"[{low:+.3f}, {high:+.3f}], which must not reach below {-MARGIN:+.3f}",
    )


def behaves(challenger: Mapping[str, float] | None, champion: Mapping[str, float] | None) -> Check:
    """Every behavioural suite passes in `MIN_BEHAVIOUR` of its cases, and not much less often than the champion.

    Args:
        challenger: pass rates by suite; None where the suites are about other labels.
        champion: the same; None where there is no champion, or its labels are others.
    """
    if challenger is None:
        return Check("behaviour", True, "the suites are about other labels than this model's")
    low, words = False, []
    for suite in (suite for suite in behaviour.SUITES if suite in challenger):
        limit = max(MIN_BEHAVIOUR, champion[suite] - MAX_BEHAVIOUR_DROP if champion else 0)
        low |= challenger[suite] < limit
        words.append(f"{suite} {challenger[suite]:.3f} (at least {limit:.3f})")
    return Check("behaviour", not low, ", ".join(words))


def unbiased(figures: Mapping[str, float] | None) -> Check:
    """The answers hardly hang on which states a text names.

    Args:
        figures: as `bias.figures` gives them; None where no text names a state.
    """
    if figures is None:
        return Check("bias", True, "not measured: no test text names a state")
    unchanged, shift = figures["bias/unchanged"], figures["bias/largest_shift"]
    return Check(
        "bias",
        unchanged >= MIN_UNCHANGED and shift <= MAX_SHIFT,
        f"unchanged {unchanged:.3f} (at least {MIN_UNCHANGED}, aim {bias.AIM_UNCHANGED}), "
        f"largest shift {shift:.3f} (at most {MAX_SHIFT}, aim {bias.AIM_SHIFT})",
    )


def keeps_eight_bits(manifest: Manifest) -> Check:
    """The eight-bit model answers as the full one: the verdict of the export, see training/quantise.py."""
    report: Mapping[str, Any] = manifest.quantisation
    if not report.get("accepted"):
        return Check("int8", False, report.get("reason") or "the bundle has no report on its eight-bit model")
    return Check("int8", True, f"{report['flips']:.2%} of the decisions on validation flip ({report['recipe']})")


def fast(challenger: Classifier, champion: Classifier | None, texts: Sequence[str]) -> Check:
    """The median time for one text is at most `MAX_SLOWDOWN` times the champion's, in turns on one thread."""
    models = [challenger, champion] if champion else [challenger]
    times = np.empty((len(texts), len(models)))
    for model in models:
        model(texts[:10])  # the first passes allocate
    for row, text in enumerate(texts):
        for column, model in enumerate(models):  # in turns: what else the machine does meets both
            start = time.perf_counter()
            model(text)
            times[row, column] = time.perf_counter() - start
    medians = np.median(times, axis=0) * 1000
    if champion is None:
        return Check("latency", True, f"median {medians[0]:.2f} ms a text; no champion to compare with")
    ratio = medians[0] / medians[1]
    words = f"median {medians[0]:.2f} ms a text, the champion's {medians[1]:.2f}: {ratio:.2f} times"
    return Check("latency", bool(ratio <= MAX_SLOWDOWN), f"{words} (at most {MAX_SLOWDOWN})")


def _counted(model: Classifier, test: Split) -> Counts:
    decided = model._decide(model.predict_proba(test.texts)).astype(np.int8)
    return significance.count(test.truth, [decided], test.groups)


def _behaviour(model: Classifier) -> dict[str, float] | None:
    cases = behaviour.load(run.ROOT / behaviour.FOLDER)
    if not behaviour.apply_to(cases, model.classes_, model.manifest.task):
        return None
    outcomes = behaviour.run(cases, lambda texts: [frozenset(statement.intents) for statement in model(texts)])
    return behaviour.figures(outcomes)


def _bias(folder: Path, test: Split) -> dict[str, float] | None:
    if not any(actors.find(text) for text in test.texts):
        return None
    file = folder / "predictions" / "bias.json"
    if not file.exists():
        say("measuring country bias …")
        bias.run_on(str(folder), BIAS_TEXTS)
    return dict(json.loads(file.read_text(encoding="utf-8"))["figures"])


def _named(version: registry.Version) -> str:
    return f"version {version.number} ({version.title})"


def _described(checks: Sequence[Check], outcome: str, force: str | None) -> str:
    rows = [f"| {check.name} | {'passed' if check.passed else '**failed**'} | {check.words} |" for check in checks]
    forced = [f"Forced: {force}", ""] if outcome == "forced" else []
    return "\n".join([f"Gate: {outcome}", "", *forced, "| check | | |", "|---|---|---|", *rows])
