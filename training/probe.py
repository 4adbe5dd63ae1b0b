"""What simple classifiers tell about a corpus: wrong labels, words that give a label away, distance from life.

Nothing here is a model to ship. A corpus on which TF-IDF does well is easy, one that TF-IDF tells from real texts
at once is not like them, and a word that decides a label here but not outside is learnt instead of the meaning
(Gururangan et al. 2018, "Annotation Artifacts in Natural Language Inference Data").
"""

from __future__ import annotations

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cleanlab import filter as issues
from cleanlab import rank
from cleanlab.multilabel_classification import filter as multilabel_issues
from cleanlab.multilabel_classification import rank as multilabel_rank
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from tqdm import tqdm

from training import baseline, calibrate, config, evaluate, run
from training.corpus import MAX_PROBLEMS, Corpus, Split
from training.errors import ConfigError, CorpusError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int8]

NONE = "none"  # stands for "no label at all", as in the statistics
SEEN = 5  # texts in which a word must stand outside for its share there to say anything
LIFE = 0.6  # outside share under which a word does not give its label away in life
FOLDS = 5
BETRAYERS = 25
KIND = 20  # compared texts that a kind must have for an AUC of its own
SHOWN = 20
_WORD = r"\w+"


@dataclass(frozen=True)
class Suspect:
    """A text whose labels may be wrong.

    Attributes:
        split, id, text: where it stands and what it says.
        given, suggested: labels as they are, and as the classifier would have them.
        score: quality of the given labels, 0 (surely wrong) to 1.
    """

    split: str
    id: str
    text: str
    given: tuple[str, ...]
    suggested: tuple[str, ...]
    score: float


@dataclass(frozen=True)
class Giveaway:
    """A word that all but decides a label.

    Attributes:
        word, label: the word, lower-cased, and the label; "none" where its texts carry no label.
        texts, share: number of texts with the word, and the share of them that carry the label.
        outside_texts: the same number in the outside file; None without one.
        outside_share: the same share there; None where fewer than `SEEN` texts have the word.
        fault: there is an outside file, and there the word does not occur or does not give the label away.
    """

    word: str
    label: str
    texts: int
    share: float
    outside_texts: int | None
    outside_share: float | None
    fault: bool


@dataclass(frozen=True)
class Betrayer:
    """A word that betrays a side: its weight, and the share of texts with it in the corpus and outside."""

    word: str
    weight: float
    corpus: float
    outside: float


@dataclass(frozen=True)
class Realism:
    """How well words tell the corpus from outside texts.

    Attributes:
        auc: mean over folds of the area under the ROC curve; 0.5: not to be told apart, 1: at a glance.
        texts: compared texts a side.
        kinds: the same area for the corpus texts of each `kind` alone, against all outside texts.
        corpus, outside: the words that most betray each side, the strongest first.
    """

    auc: float
    texts: int
    kinds: dict[str, float]
    corpus: tuple[Betrayer, ...]
    outside: tuple[Betrayer, ...]


def noise(data: Corpus, folds: int = FOLDS, seed: int = 0) -> list[Suspect]:
    """Texts of all splits whose labels a classifier doubts that has not seen their scenario, the worst first.

    Confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset
    Labels", JAIR 70) by cleanlab, on out-of-fold probabilities of TF-IDF and logistic regression. They are
    candidates for another reading, and most are merely hard: of 30 wrong labels planted in 600 texts, 19 were among
    126 suspects.

    Args:
        data: the corpus.
        folds: of the cross-validation, grouped by scenario; no more are made than there are scenarios.
        seed: of the folds.
    """
    places = [(split.name, row) for split in data.splits for row in split.rows]
    truth = np.concatenate([split.truth for split in data.splits])
    # confident learning compares those with a label to those without: a label that all or none have is left out
    varied = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    if not len(varied):
        return []
    groups = [group for split in data.splits for group in split.groups]
    probabilities = _out_of_fold([row["text"] for _, row in places], truth[:, varied], groups, data.task, folds, seed)
    suggested = truth.copy()
    with warnings.catch_warnings():
        # a label of a single text is not judged, which is as it should be
        warnings.filterwarnings("ignore", message="May not flag all label issues", category=UserWarning)
        suggested[:, varied], scores = _doubted(truth[:, varied], probabilities, data.task)
    doubted = np.flatnonzero((suggested != truth).any(axis=1))
    return [
        Suspect(
            split=places[i][0],
            id=places[i][1]["id"],
            text=places[i][1]["text"],
            given=_names(truth[i], data.labels),
            suggested=_names(suggested[i], data.labels),
            score=float(scores[i]),
        )
        for i in doubted[np.argsort(scores[doubted], kind="stable")]
    ]


def _out_of_fold(texts: Sequence[str], truth: Ints, groups: Sequence[str], task: str, folds: int, seed: int) -> Floats:
    """Probabilities (texts, labels), each by a model fitted on other scenarios."""
    features = _tfidf(2).fit_transform(texts)  # knows no label: one fit serves all folds
    splitter = GroupKFold(min(folds, len(set(groups))), shuffle=True, random_state=seed)
    result = np.zeros(truth.shape)
    parts = list(splitter.split(features, groups=groups))
    for fitted, held in tqdm(parts, desc="noise", unit="fold", disable=None, leave=False):
        if task == "single_label":
            classes, values = _probabilities(features, truth.argmax(axis=1), fitted, held, "lbfgs")
            result[np.ix_(held, classes)] = values
            continue
        for label in range(truth.shape[1]):
            classes, values = _probabilities(features, truth[:, label], fitted, held, "liblinear")
            result[held, label] = values[:, classes == 1].sum(axis=1)
    return result


def _probabilities(
    features: csr_matrix, classes: npt.NDArray[Any], fitted: npt.NDArray[Any], held: npt.NDArray[Any], solver: str
) -> tuple[npt.NDArray[Any], Floats]:
    """The classes among the fitted rows, and probabilities (held rows, those classes)."""
    known = np.unique(classes[fitted])
    if len(known) == 1:  # logistic regression wants two
        return known, np.ones((len(held), 1))
    # no class weights: confident learning wants probabilities as they are
    model = LogisticRegression(C=4.0, solver=solver, max_iter=1000).fit(features[fitted], classes[fitted])
    return known, np.asarray(model.predict_proba(features[held]), dtype=np.float64)


def _doubted(truth: Ints, probabilities: Floats, task: str) -> tuple[Ints, Floats]:
    """Labels (texts, labels) as cleanlab would have them, and the quality (texts,) of the given ones."""
    if task == "multi_label" and truth.shape[1] == 1:  # cleanlab takes one label for no multi-label task
        two, scores = _doubted(_both(truth), _both(probabilities), "single_label")
        return two[:, 1:], scores
    result = truth.copy()
    if task == "single_label":
        classes = truth.argmax(axis=1)
        doubted = issues.find_label_issues(classes, probabilities, n_jobs=1)
        best = probabilities.argmax(axis=1)
        result[doubted] = 0
        result[doubted, best[doubted]] = 1
        return result, np.asarray(rank.get_label_quality_scores(classes, probabilities))
    given = [np.flatnonzero(row).tolist() for row in truth]
    # cleanlab's `find_label_issues` flags a text where this flags any of its labels; which one is wanted as well
    doubted = multilabel_issues.find_multilabel_issues_per_class(given, probabilities, n_jobs=1)
    # in a doubted text, what is less likely than not goes too: the wrong label with the one that it stands for
    result[doubted | (doubted.any(axis=1, keepdims=True) & (np.abs(truth - probabilities) > 0.5))] ^= 1
    return result, np.asarray(multilabel_rank.get_label_quality_scores(given, probabilities))


def _both(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.column_stack([1 - values, values])


def _names(row: Ints, labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(label for label, carried in zip(labels, row, strict=True) if carried)


def giveaways(data: Corpus, outside: Split | None, minimum: int = 20, share: float = 0.95) -> list[Giveaway]:
    """Single words whose texts nearly all carry one label, or none; faults first, then by number of texts.

    A label that `share` of all texts carry anyway is given away by no word.

    Args:
        data: the corpus, over all splits.
        outside: labelled texts of life, the labels in the corpus' order; None for no judgement.
        minimum: texts in which a word must stand.
        share: of them, that carry the label.
    """
    truth = _with_none(np.concatenate([split.truth for split in data.splits]))
    there = _with_none(outside.truth) if outside else None
    places = _places([text for split in data.splits for text in split.texts])
    places_there = _places(outside.texts) if outside else {}
    rare = truth.mean(axis=0) < share
    found = []
    for word, rows in places.items():
        if len(rows) < minimum:
            continue
        shares = truth[rows].mean(axis=0)
        for i in np.flatnonzero((shares >= share) & rare):
            label = [*data.labels, NONE][i]
            rows_there = places_there.get(word, [])
            share_there = float(there[rows_there, i].mean()) if there is not None and len(rows_there) >= SEEN else None
            found.append(
                Giveaway(
                    word=word,
                    label=label,
                    texts=len(rows),
                    share=float(shares[i]),
                    outside_texts=len(rows_there) if outside else None,
                    outside_share=share_there,
                    fault=outside is not None and (not rows_there or (share_there is not None and share_there < LIFE)),
                )
            )
    return sorted(found, key=lambda one: (not one.fault, -one.texts, one.word, one.label))


def _with_none(truth: Ints) -> Ints:
    return np.column_stack([truth, ~truth.any(axis=1)]).astype(np.int8)


def _places(texts: Sequence[str]) -> dict[str, list[int]]:
    """Each word, and the texts that it stands in."""
    result: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        for word in sorted(set(re.findall(_WORD, text.lower()))):
            result[word].append(number)
    return dict(result)


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


def realism(data: Corpus, outside_texts: Sequence[str], seed: int = 0) -> Realism:
    """How well logistic regression on word TF-IDF tells the corpus from outside texts, and by which words.

    A classifier two-sample test (Lopez-Paz and Oquab 2017, "Revisiting Classifier Two-Sample Tests"), with equally
    many texts a side and folds grouped by scenario; the area is taken within folds and averaged (Forman and
    Scholz 2010, "Apples-to-Apples in Cross-Validation Studies").

    Args:
        data: the corpus, over all splits.
        outside_texts: texts of life, of any number.
        seed: of the sample and the folds.

    Raises:
        CorpusError: fewer than five different texts outside, or fewer than five scenarios in the corpus.
    """
    rows = [row for split in data.splits for row in split.rows]
    scenarios = [group for split in data.splits for group in split.groups]
    size = min(len(rows), len(outside_texts))
    random = np.random.default_rng(seed)
    here = np.sort(random.choice(len(rows), size, replace=False))
    there = np.sort(random.choice(len(outside_texts), size, replace=False))
    texts = [*(rows[i]["text"] for i in here), *(outside_texts[i] for i in there)]
    # outside nothing is known of scenarios, but a text that stands twice must not be in two folds
    groups = [*((True, scenarios[i]) for i in here), *((False, outside_texts[i]) for i in there)]
    _, numbers = np.unique([json.dumps(group) for group in groups], return_inverse=True)
    ours = np.arange(2 * size) < size
    for side, name in ((ours, "scenarios of the corpus"), (~ours, "different outside texts")):
        if (count := len(set(numbers[side]))) < FOLDS:
            raise CorpusError(f"realism needs at least {FOLDS} {name}, found {count} among {size} texts a side.")
    kinds = np.array([*(str(rows[i].get("kind") or "") for i in here), *[""] * size])
    features = _tfidf(1)
    matrix = features.fit_transform(texts)
    auc, by_kind = _areas(matrix, ours, numbers, kinds, seed)
    weights = LogisticRegression(solver="liblinear").fit(matrix, ours).coef_[0]
    shares = [np.asarray((matrix[side] > 0).sum(axis=0)).ravel() / size for side in (ours, ~ours)]
    words = features.get_feature_names_out()
    order = np.argsort(-weights, kind="stable")

    def betrayers(places: npt.NDArray[Any], sign: int) -> tuple[Betrayer, ...]:
        return tuple(
            Betrayer(str(words[i]), float(weights[i]), float(shares[0][i]), float(shares[1][i]))
            for i in places[:BETRAYERS]
            if weights[i] * sign > 0
        )

    return Realism(auc, size, by_kind, betrayers(order, 1), betrayers(order[::-1], -1))


def _areas(
    matrix: csr_matrix, ours: npt.NDArray[Any], groups: npt.NDArray[Any], kinds: npt.NDArray[Any], seed: int
) -> tuple[float, dict[str, float]]:
    areas: dict[str, list[float]] = defaultdict(list)
    wanted = [kind for kind in sorted(set(kinds)) if kind and (kinds == kind).sum() >= KIND]
    parts = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(matrix, ours, groups))
    for fitted, held in tqdm(parts, desc="realism", unit="fold", disable=None, leave=False):
        scores = (
            LogisticRegression(solver="liblinear").fit(matrix[fitted], ours[fitted]).decision_function(matrix[held])
        )
        for kind in ("", *wanted):
            chosen = ~ours[held] | (kinds[held] == kind) if kind else np.ones(len(held), dtype=bool)
            if len(set(ours[held][chosen])) == 2:
                areas[kind].append(float(roc_auc_score(ours[held][chosen], scores[chosen])))
    return float(np.mean(areas[""])), {kind: float(np.mean(areas[kind])) for kind in wanted}


def _tfidf(ngrams: int) -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, ngrams), sublinear_tf=True, token_pattern=_WORD)


def read_outside(path: Path, labels: Sequence[str]) -> tuple[list[str], Split | None]:
    """Reads an outside file: a JSON object a line with text and, in all lines or in none, intents.

    Returns:
        The texts, and the labelled split, or None where the file has no intents. Ids are made up where missing.

    Raises:
        CorpusError: with every problem found (the first twenty in full), by line.
    """
    problems: list[str] = []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            row, found = _row(line, labels)
            problems += [f"{path}:{number}: {problem}" for problem in found]
            rows.append({"id": f"{path.stem}-{number}", **row})
    labelled = sum("intents" in row for row in rows)
    if not rows:
        problems.append(f"{path}: is empty; expected one JSON object a line, with text")
    elif not problems and labelled not in (0, len(rows)):
        problems.append(f"{path}: {labelled} of {len(rows)} lines have intents; give them to all lines or to none")
    if problems:
        more = len(problems) - MAX_PROBLEMS
        raise CorpusError("\n  ".join(problems[:MAX_PROBLEMS]) + (f"\n  … and {more} more" if more > 0 else ""))
    truth = np.array([[label in row.get("intents", ()) for label in labels] for row in rows], dtype=np.int8)
    return [row["text"] for row in rows], Split(path.stem, tuple(rows), truth) if labelled else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 (byte {error.start}); convert the file, e.g. with iconv.") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); expected a JSONL file.") from None


def _row(line: str, labels: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, [f"not JSON ({error})"]
    if not isinstance(row, dict):
        return {}, [f"expected a JSON object, found {type(row).__name__}"]
    problems = []
    if not isinstance(row.get("text"), str) or not row["text"].strip():
        problems.append("text must be a non-empty string")
    intents = row.get("intents", [])
    if not isinstance(intents, list):
        problems.append("intents must be a list of labels; leave the key out where there are none to tell")
    elif unknown := [intent for intent in intents if intent not in labels]:
        problems.append(f"label {unknown[0]!r} is not one of {', '.join(labels)}")
    return row, problems


def deep(data: Corpus, against: Path | None = None) -> dict[str, Any]:
    """All probes of a corpus as one plain dict, ready for JSON.

    Returns:
        reach, noise, giveaways; with an outside file, also against (file, texts, labelled) and realism.

    Raises:
        CorpusError: the outside file is not fit for it.
    """
    texts, labelled = read_outside(against, data.labels) if against else ([], None)
    result: dict[str, Any] = {}
    if against:
        # the quick one first: too few outside texts should not be found out after minutes
        result["against"] = {"file": str(against), "texts": len(texts), "labelled": labelled is not None}
        result["realism"] = asdict(realism(data, texts))
    result["giveaways"] = [asdict(one) for one in giveaways(data, labelled)]
    result["reach"] = reach(data)
    result["noise"] = [asdict(one) for one in noise(data)]
    return result


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
