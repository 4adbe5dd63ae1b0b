"""Documents to sentences: exact offsets, and the habits of diplomatic and news text."""

from __future__ import annotations

import importlib
import time
from types import ModuleType

import pytest

from communique.reader import sentences
from tests.conftest import ROOT


def split(document: str) -> list[str]:
    return [document[start:end] for start, end in sentences(document)]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("The U.S. envoy left. He was tired.", ["The U.S. envoy left.", "He was tired."]),
        (
            "Talks are held in the U.S. The next round is open.",
            ["Talks are held in the U.S.", "The next round is open."],
        ),
        ("Mr. Obi met Dr. Lund at No. 10. They spoke.", ["Mr. Obi met Dr. Lund at No. 10.", "They spoke."]),
        (
            "Resolution No. 2118 (2013) stands. We say so.",
            ["Resolution No. 2118 (2013) stands.", "We say so."],
        ),
        ("It cost $3.5 bn. in all, he said.", ["It cost $3.5 bn. in all, he said."]),
        (
            "Gen. Mendy and Lt. Col. Sarr signed. All left.",
            ["Gen. Mendy and Lt. Col. Sarr signed.", "All left."],
        ),
        (
            "“We reject it,” he said. “We will not go back.”",
            ["“We reject it,” he said.", "“We will not go back.”"],
        ),
        ("He leaves next month. Its chair follows.", ["He leaves next month.", "Its chair follows."]),
        ("First line\nruns on here.\n\nSecond one.", ["First line\nruns on here.", "Second one."]),
        ("# A headline\nThe text.", ["A headline", "The text."]),
        ("A headline\n=====\nThe text.", ["A headline", "The text."]),
        ("It reads:\n```json\nWe agree.\n```\nSo it is.", ["It reads:", "We agree.", "So it is."]),
        ("**A title**\nThe text. And more.", ["**A title**", "The text.", "And more."]),
        ("It was late\n— very late — when they left.", ["It was late\n— very late — when they left."]),
        ("— one\n\n— two", ["one", "two"]),
        ("Thanks. And with that we close.", ["Thanks.", "And with that we close."]),
        ("- one point\n- another point", ["one point", "another point"]),
        ("1. The parties agree.\n2. They sign.", ["The parties agree.", "They sign."]),
        ("Q    Will he go?\n\nMR. TARN: No. He won’t.", ["Will he go?", "No.", "He won’t."]),
        ("Q\u00a0 \u00a0 \u00a0 Yeah.\u00a0 Hi, thanks.", ["Yeah.", "Hi, thanks."]),
        ("SENIOR ADMINISTRATION OFFICIAL: Thank you. So.", ["Thank you.", "So."]),
        ("Mr. Tarnov (Freedonia): We voted against.", ["We voted against."]),
        ("---\ntitle: x\n---\nThe text.", ["The text."]),
        (
            "GENEVA, Nov. 23 (AP) — The talks ended. Both left.",
            ["GENEVA, Nov. 23 (AP) — The talks ended.", "Both left."],
        ),
        ("It fell by 2 per cent. Oslo rose.", ["It fell by 2 per cent.", "Oslo rose."]),
        ("They meet in Nov. Others wait.", ["They meet in Nov.", "Others wait."]),
        ("He lives in Washington, D.C. Nobody knows.", ["He lives in Washington, D.C.", "Nobody knows."]),
        ("It lapsed.[3] Oslo signed.² Who else?", ["It lapsed.[3]", "Oslo signed.²", "Who else?"]),
        ("Well... I waited for incl. Oslo.", ["Well...", "I waited for incl. Oslo."]),
        ("", []),
        (" \n\n \t ", []),
        ("***", []),
    ],
)
def test_sentences(document: str, expected: list[str]) -> None:
    assert split(document) == expected


@pytest.fixture
def boundaries(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("boundaries")


def test_a_marked_file_is_joined_to_its_document(boundaries: ModuleType) -> None:
    marked = boundaries.parse("x", "A head↵\nQ: Why↵so?\nNo.\n\n- one↵\n- two\n")
    assert marked.text == "A head\nQ: Why\nso? No.\n\n- one\n- two\n\n"
    assert [marked.text[:end].split()[-1] for end in sorted(marked.ends)] == ["head", "so?", "one"]
    assert [marked.text[end - 1] for _, end in marked.paragraphs] == [".", "o"]


def test_marked_boundaries_are_found_better_than_by_the_splitter_alone(boundaries: ModuleType) -> None:
    development, held_out = (boundaries.load(half) for half in boundaries.HALVES)
    assert all(sum(len(one.ends) for one in half) > 200 for half in (development, held_out))
    ours, bare = boundaries.splitters()["communique"], boundaries.splitters()["nupunkt"]
    assert boundaries.score(ours, development).f1 > 0.99
    assert boundaries.score(ours, held_out).f1 > 0.96 > boundaries.score(bare, held_out).f1


def test_a_document_may_be_one_line_of_megabytes() -> None:
    line = "The U.S. envoy met Mr. Obi on Friday. He left. " * 10_750
    began = time.process_time()
    assert sum(1 for _ in sentences(line)) == 21_500
    short = time.process_time() - began
    began = time.process_time()
    assert sum(1 for _ in sentences(line * 4)) == 86_000
    assert time.process_time() - began < 8 * short, "more than linear"
