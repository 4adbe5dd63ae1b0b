"""What simple classifiers tell about a corpus: wrong labels, words that give a label away, distance from life.

Nothing here is a model to ship. A corpus on which TF-IDF does well is easy, one that TF-IDF tells from real texts
at once is not like them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training import baseline, calibrate, config, evaluate, outside, run
from training.corpus import Corpus
from training.errors import ConfigError
from training.giveaways import giveaways
from training.noise import noise
from training.realism import realism
from training.words import NONE

SHOWN = 20


def deep(data: Corpus, against: Path | None = None) -> dict[str, Any]:
    """All probes of a corpus as one plain dict, ready for JSON.

    Returns:
        reach, noise, giveaways; with an outside file, also against (file, texts, labelled) and realism.

    Raises:
        CorpusError: the outside file is not fit for it.
    """
    texts, labelled = outside.read(against, data.labels) if against else ([], None)
    result: dict[str, Any] = {}
    if against:
        # the quick one first: too few outside texts should not be found out after minutes
        result["against"] = {"file": str(against), "texts": len(texts), "labelled": labelled is not None}
        result["realism"] = asdict(realism(data, texts))
    result["giveaways"] = [asdict(one) for one in giveaways(data, labelled)]
    result["reach"] = reach(data)
    result["noise"] = [asdict(one) for one in noise(data)]
    return result


def reach(data: Corpus, seed: int = 0) -> dict[str, float]:
    """What `configs/tfidf.yaml` reaches on the test split: macro_f1, and f1_X a label.

    The nearer to 1, the less there is in the corpus beyond its words.
    """
    settings = config.load(run.ROOT / "configs" / "tfidf.yaml", [f"seed={seed}"])
    if not isinstance(settings, config.BaselineConfig):
        raise ConfigError("configs/tfidf.yaml: family must be baseline for the probe of a corpus.")
    fitted = baseline.fit(settings, data, lambda epoch, figures: None)
    calibration = calibrate.fit(fitted.logits(data.validation.texts), data.validation.truth, data.task)
    values = calibrate.probabilities(fitted.logits(data.test.texts), calibration.temperature, data.task)
    figures = evaluate.figures(data.test.truth, values, calibration.thresholds, labels=data.labels, task=data.task)
    return {name: figures[name] for name in ("macro_f1", *(f"f1_{label}" for label in data.labels))}


def faults(found: Mapping[str, Any]) -> list[str]:
    """The giveaways that do not hold outside, in words; `found` is what `deep` returned."""
    result = []
    for one in found["giveaways"]:
        if one["fault"]:
            share = one["outside_share"]
            life = "it is absent" if share is None else f"only {share:.0%} of {one['outside_texts']} are"
            result.append(
                f"giveaway {one['word']!r}: {one['share']:.0%} of its {one['texts']} texts are {one['label']}, but in "
                f"{found['against']['file']} {life}; write texts that use it otherwise, or fewer with it"
            )
    return result


def written(found: Mapping[str, Any]) -> list[str]:
    """What `deep` returned, as lines for people."""
    lines = [
        "TF-IDF alone reaches on test: " + ", ".join(f"{name} {value:.3f}" for name, value in found["reach"].items())
    ]
    if "realism" in found:
        lines += _realism_lines(found["realism"], found["against"]["file"])
    held = [one for one in found["giveaways"] if not one["fault"]]
    lines.append(f"{len(found['giveaways'])} words give a label away" + _shown(len(held), "that are no fault"))
    for one in held[:SHOWN]:
        outside_texts, share = one["outside_texts"], one["outside_share"]
        life = (
            "" if outside_texts is None else f"; outside {'–' if share is None else f'{share:.0%}'} of {outside_texts}"
        )
        lines.append(f"  {one['word']}: {one['label']} in {one['share']:.0%} of {one['texts']}{life}")
    suspects = found["noise"]
    lines.append(f"{len(suspects)} texts may be labelled wrongly" + _shown(len(suspects), "most doubtful"))
    for one in suspects[:SHOWN]:
        given, suggested = (" + ".join(one[key]) or NONE for key in ("given", "suggested"))
        lines.append(f"  {one['score']:.2f} {one['split']} {one['id']}: {given} -> {suggested}? {one['text'][:120]!r}")
    return lines


def _shown(count: int, which: str) -> str:
    return f"; the {min(count, SHOWN)} {which}:" if count else ""


def _realism_lines(found: Mapping[str, Any], file: str) -> list[str]:
    lines = [f"told from {file} with AUC {found['auc']:.3f} (0.5: not at all; {found['texts']} texts a side)"]
    if found["kinds"]:
        kinds = sorted(found["kinds"].items(), key=lambda item: -item[1])
        lines.append("  by kind: " + ", ".join(f"{kind} {auc:.3f}" for kind, auc in kinds))
    for side, name in (("corpus", "the corpus"), ("outside", "outside")):
        lines.append(f"  words of {name}: " + ", ".join(one["word"] for one in found[side]))
    return lines
