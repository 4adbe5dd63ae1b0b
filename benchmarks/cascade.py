"""A cascade: a tiny static model answers the texts that it is sure of, the encoder the rest. What is won, what is lost.

    python benchmarks/cascade.py [BUNDLE] [--first words characters embeddings RUN] [--on FILE.jsonl] [--limit 0.3]

First stages, none of which needs torch:

words        configs/tfidf.yaml without the characters
characters   configs/tfidf.yaml
embeddings   the mean of the bundle's own word embeddings, logistic regression
RUN          the folder of a finished run

Each is tried in two ways. `background`: all that it may say is "none of these", and it is as sure of that as its
largest probability is far from 1. `any`: it may say whatever it decides, and is as sure as `Statement.confidence`. The
bound that sureness must reach is chosen on validation: the one by which most texts are answered at `--limit` points of
macro-F1 lost. The other bounds are for the eye; the other sets have no part in the choice. `--taught encoder` fits the
first stages on what the encoder says of train in place of the corpus' labels.

`documents` are the test split's documents alone, whole and in order: running text. `rate` is how many times as fast as
the encoder alone: processor seconds on one thread, medians over rounds in which all take turns. `perfect` costs nothing
and knows what the encoder finds empty, all that `background` can win. The loss at the chosen bound comes with half its
95% interval, by paired bootstrap over scenarios.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import communique
from communique import Classifier
from training import calibrate, config, corpus, evaluate, significance, train

ROOT = Path(__file__).resolve().parent.parent
BOUNDS = (0.9, 0.8, 0.7, 0.6)
TIMED = 256  # texts of each set, evenly drawn
RESAMPLES = 2000

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int8]
Scores = Callable[[Sequence[str]], Floats]  # texts -> logits or probabilities (texts, labels)
Answers = Callable[[Floats], tuple[Floats, Ints]]  # probabilities -> sureness (texts), decisions (texts, labels)


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A set of texts and what the encoder alone says of them."""

    split: corpus.Split
    decided: Ints


@dataclasses.dataclass(frozen=True)
class Cascade:
    """A first stage, how it answers, the bound that its sureness must reach, and whether validation chose that."""

    name: str
    probabilities: Scores
    answers: Answers
    bound: float
    chosen: bool

    def seconds(self, texts: list[str], encoder: Classifier) -> float:
        """Processor seconds for texts: the first stage on all, the encoder on those that it leaves."""
        start = time.process_time()
        sureness, _ = self.answers(self.probabilities(texts))
        encoder.predict_proba([text for text, left in zip(texts, sureness < self.bound, strict=True) if left])
        return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", default="bundles/model")
    parser.add_argument("--corpus", default=str(ROOT / "datasets/statements"))
    parser.add_argument(
        "--first", nargs="+", default=["words"], help="words, characters, embeddings, or a run's folder"
    )
    parser.add_argument("--taught", choices=("corpus", "encoder"), default="corpus", help="by whose labels of train")
    parser.add_argument("--on", type=Path, help="another labelled file to evaluate on")
    parser.add_argument("--limit", type=float, default=0.3, help="points of macro-F1 that validation may lose")
    parser.add_argument("--bounds", type=float, nargs="*", default=BOUNDS, help="to show beside the chosen one")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    data = corpus.load(asked.corpus)
    encoder = communique.load(asked.bundle, threads=1)
    if data.task != "multi_label" or encoder.classes_ != data.labels:
        parser.error(
            f"expected a multi-label bundle of {', '.join(data.labels)}: one of single labels knows no background"
        )
    sets = evaluated(data, encoder, asked.on)
    if asked.taught == "encoder":
        said = np.asarray(encoder.predict(data.train.texts), dtype=np.int8)
        data = dataclasses.replace(data, train=dataclasses.replace(data.train, truth=said))
    validation = sets["validation"]
    cascades = []
    for name in asked.first:
        probabilities, thresholds = calibrated(first_stage(name, data, Path(asked.bundle)), data)
        for way, answers in (("background", background), ("any", whatever(thresholds))):
            sureness, said = answers(probabilities(validation.split.texts))
            bound = choose(sureness, said, validation.decided, validation.split.truth, asked.limit / 100)
            cascades += [
                Cascade(f"{Path(name).name}, {way}", probabilities, answers, one, chosen=one == bound)
                for one in (*asked.bounds, bound)
            ]
    print(f"at most {asked.limit} points lost on validation, taught by the {asked.taught}, {asked.rounds} rounds")
    for name, one in sets.items():
        show(name, one, cascades, rates(one, cascades, encoder, asked.rounds), data.labels)


def evaluated(data: corpus.Corpus, encoder: Classifier, on: Path | None) -> dict[str, Evaluated]:
    """Validation, test, test's documents and the file `on`, by name."""
    splits = {"validation": data.validation, "test": data.test}
    if on:
        splits[on.stem] = corpus.load_file(on, data.labels, data.task)
    sets = {
        name: Evaluated(split, np.asarray(encoder.predict(split.texts), dtype=np.int8))
        for name, split in splits.items()
    }
    if places := [i for i, row in enumerate(data.test.rows) if "document" in row]:
        rows = tuple(data.test.rows[i] for i in places)
        documents = corpus.Split("documents", rows, data.test.truth[places])
        sets["documents"] = Evaluated(documents, sets["test"].decided[places])
    return sets


def first_stage(name: str, data: corpus.Corpus, bundle: Path) -> Scores:
    """The logits of a first stage, fitted on train or, of a run, as it was."""
    if name == "embeddings":
        return _embeddings(data, bundle)
    if name in ("words", "characters"):
        overrides = ["char_ngrams=0"] if name == "words" else []
        return train.fit(config.load(ROOT / "configs/tfidf.yaml", overrides), data, lambda *_: None).logits
    return train.restore(Path(name))[0].logits


def _embeddings(data: corpus.Corpus, bundle: Path) -> Scores:
    from safetensors import safe_open
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.no_padding()
    with safe_open(bundle / "model.safetensors", "numpy") as weights:
        (name,) = (key for key in weights.keys() if key.endswith("word_embeddings.weight"))  # noqa: SIM118
        table = weights.get_tensor(name)

    def features(texts: Sequence[str]) -> Any:
        return np.stack([table[one.ids].mean(axis=0) for one in tokenizer.encode_batch_fast(list(texts))])

    regression = OneVsRestClassifier(LogisticRegression(C=0.1, max_iter=1000))
    fitted = make_pipeline(StandardScaler(), regression).fit(features(data.train.texts), data.train.truth)
    return lambda texts: np.asarray(fitted.decision_function(features(texts)))


def calibrated(logits: Scores, data: corpus.Corpus) -> tuple[Scores, tuple[float, ...]]:
    """Probabilities from logits, and the thresholds of decisions, fitted on validation."""
    found = logits(data.validation.texts)
    shifts = calibrate.shifts(found, data.validation.truth, data.task)
    fitted = calibrate.fit(found + shifts, data.validation.truth, data.task)
    return lambda texts: calibrate.probabilities(
        logits(texts) + shifts, fitted.temperature, data.task
    ), fitted.thresholds


def background(probabilities: Floats) -> tuple[Floats, Ints]:
    """Answers "none of these" to all texts."""
    return 1 - probabilities.max(axis=1), np.zeros(probabilities.shape, dtype=np.int8)


def whatever(thresholds: Sequence[float]) -> Answers:
    """Answers by thresholds."""
    return lambda probabilities: (
        evaluate.confidence(probabilities, thresholds, "multi_label"),
        evaluate.decide(probabilities, thresholds, "multi_label"),
    )


def choose(sureness: Floats, first: Ints, second: Ints, truth: Ints, limit: float) -> float:
    """The bound by which the first stage answers most texts while macro-F1 falls by no more than `limit`.

    Args:
        sureness: (texts), of the first stage.
        first: (texts, labels), what the first stage decides.
        second: of the same shape, what the encoder decides.
        truth: of the same shape.
        limit: largest loss against the encoder alone, 1 for all of macro-F1.

    Returns:
        The least sureness that is answered; infinity where none may be.
    """
    order = np.argsort(-sureness, kind="stable")
    gained = ((truth & first) - (truth & second))[order].cumsum(axis=0, dtype=np.int64)
    added = (first - second)[order].cumsum(axis=0, dtype=np.int64)
    hits, chosen = (truth & second).sum(axis=0), second.sum(axis=0) + truth.sum(axis=0)
    alone = (2 * hits / np.maximum(chosen, 1)).mean()
    losses = alone - (2 * (hits + gained) / np.maximum(chosen + added, 1)).mean(axis=1)
    ranked = sureness[order]
    parted = np.append(ranked[1:] < ranked[:-1], True)  # texts of one sureness are answered together
    allowed = np.flatnonzero(parted & (losses <= limit + 1e-12))
    return float(ranked[allowed[-1]]) if len(allowed) else float("inf")


def rates(one: Evaluated, cascades: Sequence[Cascade], encoder: Classifier, rounds: int) -> list[float]:
    """How many times as fast as the encoder alone each cascade is, and last of all the perfect one."""
    places = np.unique(np.linspace(0, len(one.split) - 1, TIMED).astype(int))
    texts = [one.split.texts[i] for i in places]
    busy = [text for text, decided in zip(texts, one.decided[places].any(axis=1), strict=True) if decided]
    found: list[list[float]] = []
    for _ in range(rounds):
        alone = _seconds(encoder, texts)
        found.append([alone / cascade.seconds(texts, encoder) for cascade in cascades])
        found[-1].append(alone / _seconds(encoder, busy))
    return [statistics.median(values) for values in zip(*found, strict=True)]


def _seconds(encoder: Classifier, texts: list[str]) -> float:
    start = time.process_time()
    encoder.predict_proba(texts)
    return time.process_time() - start


def show(name: str, one: Evaluated, cascades: Sequence[Cascade], times: Sequence[float], labels: Sequence[str]) -> None:
    """Prints the table of one set."""
    empty = ~one.split.truth.any(axis=1)
    found = 1 - one.decided.any(axis=1).mean()
    print(f"\n{name}: {len(one.split)} texts, {empty.mean():.0%} empty, {found:.0%} by the encoder")
    titles = ("bound", "share", "of empty", "of others", "macro-F1", *labels, "rate")
    print(f"{'':<32}" + "".join(f"{title:>11}" for title in titles) + f"{'points lost':>16}")
    alone = significance.count(one.split.truth, [one.decided], one.split.groups)
    whole = np.ones((1, len(alone.support)))
    print(f"{'encoder alone':<32}{'':>44}" + "".join(f"{value:>11.3f}" for value in alone.f1(whole)[0]) + f"{1:>11.2f}")
    for cascade, rate in zip(cascades, times, strict=False):
        sureness, said = cascade.answers(cascade.probabilities(one.split.texts))
        answered = sureness >= cascade.bound
        both = np.where(answered[:, None], said, one.decided)
        counts = significance.count(one.split.truth, [both], one.split.groups)
        lost = f"{100 * (alone.f1(whole) - counts.f1(whole))[0, 0]:+.2f}"
        if cascade.chosen and len(alone.support) >= significance.MIN_SCENARIOS:
            _, half, _ = significance.resample([alone, counts], rounds=RESAMPLES).differences(0, 1)
            lost += f" ± {100 * half[0]:.2f}"
        shares = (cascade.bound, answered.mean(), answered[empty].mean(), answered[~empty].mean())
        cells = "".join(f"{value:>11.3f}" for value in (*shares, *counts.f1(whole)[0]))
        print(f"{cascade.name + ', chosen' * cascade.chosen:<32}{cells}{rate:>11.2f}{lost:>16}")
    print(f"{'perfect':<32}{'':>99}{times[-1]:>11.2f}", flush=True)


if __name__ == "__main__":
    main()
