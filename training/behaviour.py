"""The behavioural suites: what the model must do whatever its macro-F1 (Ribeiro et al. 2020, "Beyond Accuracy").

Three kinds of case, as data in `datasets/behaviour/`: a text with the intents that it must get
(functionality); two texts that must get the same (invariance); two texts between which given intents must
appear or disappear (direction).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import CorpusError

SUITES = ("functionality", "invariance", "direction")
_KEYS = {
    "functionality": ("intents", "rule"),
    "invariance": ("variant", "change"),
    "direction": ("variant", "appears", "disappears"),
}
FOLDER = Path("datasets/behaviour")
Predict = Callable[[Sequence[str]], Sequence[frozenset[str]]]


@dataclass(frozen=True)
class Outcome:
    """One case after it was run.

    Attributes:
        case: the case as read.
        group: what it is counted under, e.g. "functionality/rule 4" or "invariance/dates".
        passed: whether the model did what it must.
        found: the intents of its text, and of its variant where it has one.
    """

    case: Mapping[str, Any]
    group: str
    passed: bool
    found: tuple[tuple[str, ...], ...]


def load(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Reads every suite.

    Raises:
        CorpusError: a file is missing or a case is not whole, by file and line.
    """
    cases = []
    for suite in SUITES:
        file = folder / f"{suite}.jsonl"
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise CorpusError(f"{file}: no such suite.") from None
        for number, line in enumerate(lines, 1):
            try:
                case = json.loads(line)
                missing = [key for key in ("id", "text", *_KEYS[suite]) if key not in case]
            except (ValueError, TypeError) as error:
                raise CorpusError(f"{file}:{number}: not JSON ({error})") from None
            if missing:
                raise CorpusError(f"{file}:{number}: lacks {', '.join(missing)}")
            cases.append({**case, "kind": suite})
    return cases


def apply_to(cases: Sequence[Mapping[str, Any]], labels: Sequence[str], task: str) -> bool:
    """Whether the cases are about labels that a model has."""
    asked = {intent for case in cases for key in ("intents", "appears", "disappears") for intent in case.get(key, ())}
    return task == "multi_label" and asked <= set(labels)


def run(cases: Sequence[Mapping[str, Any]], predict: Predict) -> list[Outcome]:
    """Runs the cases; `predict` gives the set of intents of each text."""
    texts = [text for case in cases for text in _texts(case)]
    found = dict(zip(texts, predict(texts), strict=True))
    return [_judged(case, [found[text] for text in _texts(case)]) for case in cases]


def figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Pass rates: `functionality`, `invariance`, `direction`, and `all` of them together."""
    result = {}
    for suite in (*SUITES, "all"):
        chosen = [outcome.passed for outcome in outcomes if suite in ("all", outcome.case["kind"])]
        if chosen:
            result[suite] = sum(chosen) / len(chosen)
    return result


def groups(outcomes: Sequence[Outcome]) -> dict[str, tuple[int, int]]:
    """Passed and run, by rule, kind of change and kind of direction."""
    result: dict[str, tuple[int, int]] = {}
    for outcome in outcomes:
        passed, ran = result.get(outcome.group, (0, 0))
        result[outcome.group] = (passed + outcome.passed, ran + 1)
    return result


def _texts(case: Mapping[str, Any]) -> list[str]:
    return [case["text"], *([case["variant"]] if "variant" in case else [])]


def _judged(case: Mapping[str, Any], found: Sequence[frozenset[str]]) -> Outcome:
    if case["kind"] == "functionality":
        group, passed = f"rule {case['rule']}", found[0] == set(case["intents"])
    elif case["kind"] == "invariance":
        group, passed = str(case["change"]), found[0] == found[1]
    else:
        group = str(case["id"]).rpartition("-")[0]
        appeared, gone = set(case["appears"]), set(case["disappears"])
        # what must appear is there after and not before; what must disappear, the reverse
        passed = appeared <= found[1] - found[0] and gone <= found[0] - found[1]
    return Outcome(case, f"{case['kind']}/{group}", passed, tuple(tuple(sorted(one)) for one in found))
