"""The suites are whole and not drawn from the corpus; the runner judges as it says."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

import communique
from training import behaviour, corpus

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / behaviour.FOLDER
BUNDLE = ROOT / "bundles" / "model"
CASES = behaviour.load(FOLDER)
TURN = {"kind": "direction", "variant": "b"}


def test_the_suites_are_large_enough() -> None:
    assert len(CASES) >= 400
    functional = [case for case in CASES if case["kind"] == "functionality"]
    assert set(range(1, 33)) == {case["rule"] for case in functional}
    counts = Counter(intent for case in functional for intent in case["intents"] or ["none"])
    assert min(counts.values()) >= 20 and len(counts) == 5
    assert {case["change"] for case in CASES if case["kind"] == "invariance"} == {
        "states", "dates", "figures", "capitals", "quotes", "typos",
    }  # fmt: skip


def test_ids_and_texts_are_unique() -> None:
    assert len({case["id"] for case in CASES}) == len(CASES)
    texts = [text for case in CASES for text in behaviour._texts(case)]
    assert len(set(texts)) == len(texts)


def test_no_case_stands_in_the_corpus() -> None:
    def norm(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.lower()))

    data = corpus.load(ROOT / "datasets" / "statements")
    taught = {norm(text) for split in data.splits for text in split.texts}
    assert not [case["id"] for case in CASES for text in behaviour._texts(case) if norm(text) in taught]


def _answers(*sets: set[str]) -> behaviour.Predict:
    def predict(texts: Sequence[str]) -> list[frozenset[str]]:
        return [frozenset(one) for one in sets]

    return predict


@pytest.mark.parametrize(
    ("case", "found", "passed"),
    [
        ({"kind": "functionality", "rule": 1, "intents": ["proposal"]}, [{"proposal"}], True),
        ({"kind": "functionality", "rule": 1, "intents": ["proposal"]}, [{"proposal", "reaction"}], False),
        ({"kind": "functionality", "rule": 1, "intents": []}, [set()], True),
        ({"kind": "invariance", "change": "dates", "variant": "b"}, [{"reaction"}, {"reaction"}], True),
        ({"kind": "invariance", "change": "dates", "variant": "b"}, [{"reaction"}, set()], False),
        (
            {**TURN, "appears": ["condition"], "disappears": []},
            [set(), {"condition"}],
            True,
        ),
        ({**TURN, "appears": ["condition"], "disappears": []}, [{"condition"}] * 2, False),
        ({**TURN, "appears": [], "disappears": ["proposal"]}, [{"proposal"}, set()], True),
        ({**TURN, "appears": [], "disappears": ["proposal"]}, [set(), set()], False),
    ],
)
def test_judging(case: dict[str, object], found: list[set[str]], passed: bool) -> None:
    (outcome,) = behaviour.run([{"id": "x-1", "text": "a", **case}], _answers(*found))
    assert outcome.passed is passed
    assert behaviour.figures([outcome])["all"] == float(passed)


def test_a_broken_case_is_named(tmp_path: Path) -> None:
    for suite in behaviour.SUITES:
        (tmp_path / f"{suite}.jsonl").write_text((FOLDER / f"{suite}.jsonl").read_text())
    (tmp_path / "invariance.jsonl").write_text('{"id": "a", "text": "b", "variant": "c"}\n')
    with pytest.raises(corpus.CorpusError, match=r"invariance\.jsonl:1: lacks change"):
        behaviour.load(tmp_path)


@pytest.mark.skipif(not (BUNDLE / "communique.json").exists(), reason="no model here; `make model` builds one")
def test_the_shipped_model_keeps_its_behaviour() -> None:
    classifier = communique.load(BUNDLE)
    outcomes = behaviour.run(CASES, lambda texts: [frozenset(s.intents) for s in classifier(texts)])
    rates = behaviour.figures(outcomes)
    # floors a little under the first released model's: a fall below them is a change for the worse
    assert rates["functionality"] >= 0.70 and rates["invariance"] >= 0.85 and rates["direction"] >= 0.60, json.dumps(
        rates
    )
