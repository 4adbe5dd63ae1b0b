"""The runtime's API: shapes, order, long texts, any Unicode, pickles, threads."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import communique
from communique.bundle import write_sums
from communique.errors import BundleError, InputError

TEXTS = [
    "We reject the plan for Oslo.",
    "It rained in Lima.",
    "We urge a meeting in Doha provided that they sign in Riga.",
]


@pytest.fixture(scope="module")
def classifier(exported: Path) -> communique.Classifier:
    return communique.load(exported, threads=1)


def test_a_string_gives_a_statement_and_a_list_gives_a_list(classifier: communique.Classifier) -> None:
    one = classifier(TEXTS[0])
    assert isinstance(one, communique.Statement)
    assert (one.text, one.start, one.end) == (TEXTS[0], 0, len(TEXTS[0]))
    assert list(one.probabilities) == list(classifier.classes_)
    assert [statement.text for statement in classifier(TEXTS)] == TEXTS
    assert classifier([]) == []
    assert classifier(iter(TEXTS)) == classifier(TEXTS)


def test_shapes_and_columns(classifier: communique.Classifier) -> None:
    probabilities = classifier.predict_proba(TEXTS)
    assert probabilities.shape == (3, 4) and probabilities.dtype == np.float32
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    decisions = classifier.predict(TEXTS)
    assert decisions.tolist() == (probabilities >= classifier.thresholds).astype(int).tolist()
    assert classifier.predict_proba([]).shape == (0, 4)


def test_intents_follow_the_thresholds(exported: Path) -> None:
    classifier = communique.load(exported, threads=1)
    classifier.thresholds[:] = 0
    assert classifier(TEXTS[1]).intents == classifier.classes_
    classifier.thresholds[:] = 1.01
    assert classifier(TEXTS[1]).intents == ()


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_answers_do_not_hang_on_company_or_order(exported: Path, precision: str) -> None:
    classifier = communique.load(exported, threads=1, precision=precision)
    many = TEXTS * 40 + ["We welcome the news from Bern."] * 5
    together = classifier.predict_proba(many)
    reverse = classifier.predict_proba(many[::-1])[::-1]
    alone = np.concatenate([classifier.predict_proba([text]) for text in many])
    aside = communique.load(exported, threads=3, precision=precision).predict_proba(many)
    assert np.abs(together - reverse).max() < 1e-5
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together - aside).max() < 1e-5


def test_a_long_text_is_read_to_its_end(classifier: communique.Classifier) -> None:
    filler = "The minister of Lima said: it rained in Oslo. " * 60
    calm = classifier.predict_proba([filler])
    late = classifier.predict_proba([filler + "The minister of Oslo said: we reject the plan for Lima."])
    place = classifier.classes_.index("rejection")
    assert late[0, place] > calm[0, place] + 0.2


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\0",
        "\ud800",
        "a\udfffb",
        "\U0001f54a️",
        "é" * 5000,
        "\u202e\u2066",
        "ｆｕｌｌ",
        "\n\t\r",
        "字" * 3000,
    ],
)
def test_any_unicode_gets_an_answer(classifier: communique.Classifier, text: str) -> None:
    assert np.isfinite(classifier.predict_proba([text])).all()
    assert classifier(text).text == text


@pytest.mark.parametrize("text", ["x" * 10_000_000, "\ud800" * 1_000_000, "word " * 20_000], ids=len)
def test_one_line_of_megabytes_gets_an_answer(classifier: communique.Classifier, text: str) -> None:
    assert classifier(text).end == len(text)


@pytest.mark.parametrize("wrong", [[None], [3], [b"bytes"], ["fine", float("nan")]])
def test_what_is_no_text_is_refused_by_position(classifier: communique.Classifier, wrong: list[object]) -> None:
    with pytest.raises(InputError, match=f"item {len(wrong) - 1}: expected a string"):
        classifier.predict_proba(wrong)  # type: ignore[arg-type]


def test_a_bare_string_is_no_sequence_of_texts(classifier: communique.Classifier) -> None:
    with pytest.raises(InputError, match="wrap it in a list"):
        classifier.predict_proba("text")


def test_a_pickle_gives_the_same_answers(classifier: communique.Classifier) -> None:
    copied = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(copied.predict_proba(TEXTS), classifier.predict_proba(TEXTS))


def test_threads_share_one_classifier(classifier: communique.Classifier) -> None:
    expected = classifier.predict_proba(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: classifier.predict_proba(TEXTS), range(40)):
            assert np.array_equal(found, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_answers_as_its_parent(exported: Path) -> None:
    code = f"""
import multiprocessing, communique
classifier = communique.load({str(exported)!r}, threads=2)
texts = {TEXTS!r} * 30
mine = [statement.intents for statement in classifier(texts)]
def theirs(_):
    return [statement.intents for statement in classifier(texts)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(all(found == mine for found in pool.map(theirs, range(4))))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "True\n", done.stderr


def test_two_models_stand_side_by_side(exported: Path, bundle_copy: Path) -> None:
    manifest = bundle_copy / "communique.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "name": "other", "temperature": 9.0}))
    write_sums(bundle_copy)
    one, other = communique.load(exported, threads=1), communique.load(bundle_copy, threads=1)
    first, second = one.predict_proba(TEXTS), other.predict_proba(TEXTS)
    assert (repr(one)[:16], repr(other)[:16]) == ("Classifier(tiny ", "Classifier(other")
    assert np.abs(first - second).max() > 0.05
    assert np.array_equal(one.predict_proba(TEXTS), first) and np.array_equal(other.predict_proba(TEXTS), second)


def test_a_stream_keeps_order_and_takes_no_more_than_a_chunk(
    classifier: communique.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("communique.classifier.CHUNK", 8)
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield TEXTS[number % 3]

    expected = [statement.intents for statement in classifier(TEXTS)]
    stream = classifier.stream(texts())
    assert taken == 0
    for number, statement in enumerate(itertools.islice(stream, 20)):
        assert (statement.text, statement.intents) == (TEXTS[number % 3], expected[number % 3])
        assert taken == 8 * (number // 8 + 1)


def test_both_precisions_load_and_agree(exported: Path) -> None:
    full, small = (communique.load(exported, precision=name) for name in ("fp32", "int8"))
    assert np.abs(full.predict_proba(TEXTS) - small.predict_proba(TEXTS)).max() < 0.1
    with pytest.raises(BundleError, match="precision must be one of"):
        communique.load(exported, precision="int4")


def test_options_and_places_that_are_wrong(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="threads"):
        communique.load(exported, threads=0)
    with pytest.raises(communique.CommuniqueError, match="no such folder"):
        communique.load(tmp_path / "nothing")


def test_a_checkout_has_no_model_of_its_own_and_says_so() -> None:
    if (Path(communique.__file__).parent / "model").is_dir():
        pytest.skip("a model lies in the package")
    with pytest.raises(BundleError, match="carries no model"):
        communique.load()


def test_confidence_is_the_way_to_the_nearest_threshold(classifier: communique.Classifier) -> None:
    for text in TEXTS:
        statement = classifier(text)
        ways = [
            (p - t) / (1 - t) if p >= t else (t - p) / t
            for p, t in zip(statement.probabilities.values(), classifier.thresholds.tolist(), strict=True)
        ]
        assert statement.confidence == pytest.approx(min(ways), abs=1e-5)


def test_confidence_stays_within_0_and_1_at_any_threshold(exported: Path) -> None:
    classifier = communique.load(exported, threads=1)
    for threshold in (0, 1e-9, 0.5, 1, 1.01):
        classifier.thresholds[:] = threshold
        assert all(0 <= statement.confidence <= 1 for statement in classifier(TEXTS))


def test_an_unsure_statement_is_marked_and_keeps_its_intents(exported: Path) -> None:
    plain = communique.load(exported, threads=1)(TEXTS)
    assert not any(statement.unsure for statement in plain)
    middle = sorted(statement.confidence for statement in plain)[1]
    strict = communique.load(exported, threads=1, min_confidence=middle)
    marked = pickle.loads(pickle.dumps(strict))(TEXTS)
    assert [statement.unsure for statement in marked] == [statement.confidence < middle for statement in plain]
    assert sum(statement.unsure for statement in marked) == 1
    assert [statement.intents for statement in marked] == [statement.intents for statement in plain]
    assert [statement.unsure for statement in strict.read(" ".join(TEXTS))] == [s.unsure for s in marked]


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_min_confidence_is_a_share(exported: Path, wrong: float) -> None:
    with pytest.raises(InputError, match="min_confidence must be 0 to 1"):
        communique.load(exported, min_confidence=wrong)


def test_the_confidence_of_a_single_label_is_its_lead(bundle_copy: Path) -> None:
    manifest = bundle_copy / "communique.json"
    manifest.write_text(manifest.read_text().replace('"multi_label"', '"single_label"'))
    write_sums(bundle_copy)
    classifier = communique.load(bundle_copy, threads=1)
    first, second = sorted(classifier(TEXTS[0]).probabilities.values(), reverse=True)[:2]
    assert classifier(TEXTS[0]).confidence == pytest.approx(first - second, abs=1e-6)
    assert len(classifier(TEXTS[0]).intents) == 1
