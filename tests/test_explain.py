"""Explanations: the words that count are found, and leaving them out shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import communique
from communique.__main__ import main
from communique.errors import InputError
from communique.explain import MAX_WORDS, Explanation, Word, deciding, weigh
from communique.render import explained

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "bundles" / "model"


@pytest.fixture(scope="module")
def classifier(exported: Path) -> communique.Classifier:
    return communique.load(exported, threads=1, precision="fp32")


def test_words_have_offsets_and_a_weight_for_each_label(classifier: communique.Classifier) -> None:
    text = "The minister's “ready-made” plan,  for Oslo: 2.5 million."
    explanation = classifier.explain(text)
    assert explanation.statement == classifier(text)
    assert [word.text for word in explanation.words] == [
        "The", "minister's", "ready-made", "plan", "for", "Oslo", "2.5", "million",
    ]  # fmt: skip
    assert all(text[word.start : word.end] == word.text for word in explanation.words)
    assert all(tuple(word.weights) == classifier.classes_ for word in explanation.words)


def test_a_weight_is_what_the_log_odds_lose(classifier: communique.Classifier) -> None:
    text, without = "The minister of Oslo said: we reject the plan.", "The minister of Oslo said: we the plan."
    found = classifier.predict_proba([text, without]).astype(np.float64).clip(1e-7, 1 - 1e-7)
    before, after = np.log(found / (1 - found))
    weights = list(classifier.explain(text).words[6].weights.values())
    assert weights == pytest.approx((before - after).tolist(), abs=1e-3) and max(map(abs, weights)) > 0.05


@pytest.mark.skipif(not BUNDLE.is_dir(), reason="no bundles/model here; `make export` builds it")
def test_leaving_out_the_top_words_costs_more_than_leaving_out_others() -> None:
    """Comprehensiveness (DeYoung et al. 2020): the three heaviest words together, against three at random."""
    classifier = communique.load(BUNDLE, threads=1)
    generator = np.random.default_rng(0)
    document = (ROOT / "datasets" / "articles" / "ceasefire.md").read_text(encoding="utf-8")
    top_loss, random_loss = [], []
    for statement in classifier.read(document):
        for label in statement.intents:
            words = weigh(classifier, statement.text)
            assert words
            ranked = sorted(words, key=lambda word: -word.weights[label])[:3]
            drawn = [words[place] for place in generator.permutation(len(words))[:3]]
            full, top, other = classifier.predict_proba(
                [statement.text, _without(statement.text, ranked), _without(statement.text, drawn)]
            )[:, classifier.classes_.index(label)]
            top_loss.append(full - top)
            random_loss.append(full - other)
    assert np.mean(top_loss) > np.mean(random_loss) + 0.3


def _without(text: str, words: list[Word]) -> str:
    for word in sorted(words, key=lambda word: -word.start):
        text = text[: word.start] + text[word.end :]
    return " ".join(text.split())


def test_a_text_without_words_and_one_with_too_many(classifier: communique.Classifier) -> None:
    assert classifier.explain("…").words == ()
    with pytest.raises(InputError, match=rf"more than {MAX_WORDS} words.*classifier\.read"):
        classifier.explain("word " * (MAX_WORDS + 1))


def test_deciding_words_speak_for_the_label() -> None:
    weights = {"heavy": 4.0, "half": 2.0, "slight": 0.5, "against": -3.0}
    words = tuple(Word(name, 0, 1, {"a": weight}) for name, weight in weights.items())
    assert [word.text for word in deciding(words, "a")] == ["heavy", "half"]
    assert deciding(words[3:], "a") == []


def test_the_terminal_view_marks_with_signs_or_colour() -> None:
    words = (Word("We", 0, 2, {"no": 0.1}), Word("refuse", 3, 9, {"no": 4.0}), Word("it", 10, 12, {"no": 1.5}))
    statement = communique.Statement("We refuse it\033[2J.", ("no",), {"no": 0.9}, 0, 13)
    plain = explained(Explanation(statement, words), ["no"])
    assert "We **refuse** *it*\ufffd[2J." in plain and re.search(r"refuse +\+4\.00", plain) and "\033" not in plain
    assert "\033[1;7;36mrefuse\033[0m" in explained(Explanation(statement, words), ["no"], colour=True)


def test_the_command(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "The minister of Oslo said: we reject the plan for Lima."
    assert main(["explain", text, "--model", str(exported)]) == 0
    assert "\033" not in (shown := capsys.readouterr().out) and "rejection" in shown
    assert main(["explain", text, "--json", "--model", str(exported)]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["text"] == text and "confidence" in record
    assert all(text[word["start"] : word["end"]] == word["text"] for word in record["words"])
