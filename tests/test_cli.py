"""The `communique` command: what it prints, and how it refuses."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import communique
from communique.__main__ import main
from communique.explain import Word
from communique.markup import text_of
from communique.progress import Progress
from communique.render import csv_rows, table

DOCUMENT = "# Talks\n\nWe reject the plan for Oslo. It rained in Lima.\n"


@pytest.fixture
def article(tmp_path: Path) -> Path:
    file = tmp_path / "article.md"
    file.write_text(DOCUMENT, encoding="utf-8")
    return file


def test_read_prints_every_sentence_and_a_count(
    exported: Path, article: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", str(article), "--model", str(exported)]) == 0
    printed = capsys.readouterr().out
    assert "We reject the plan for Oslo." in printed and "3 sentences: proposal" in printed


def test_read_json_gives_offsets_into_the_file(
    exported: Path, article: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", str(article), "--json", "--model", str(exported)]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["text"] for record in records] == [
        "Talks",
        "We reject the plan for Oslo.",
        "It rained in Lima.",
    ]
    assert all(DOCUMENT[record["start"] : record["end"]] == record["text"] for record in records)
    assert set(records[0]["probabilities"]) == {"proposal", "condition", "rejection", "reaction"}


def test_read_takes_standard_input(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"\xef\xbb\xbfIt rained.")))
    assert main(["read", "--json", "--model", str(exported)]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "It rained."


def test_several_files_are_told_apart(exported: Path, article: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", str(article), str(article), "--json", "--model", str(exported)]) == 0
    assert {json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()} == {str(article)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"caf\xe9", r"not UTF-8 \(byte 3 is 0xe9\)"),
    ],
)
def test_a_bad_file_is_one_message(
    exported: Path, tmp_path: Path, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.txt"
    if content is not None:
        file.write_bytes(content)
    assert main(["read", str(file), "--model", str(exported)]) == 2
    streams = capsys.readouterr()
    assert streams.out == "" and "bad.txt" in streams.err and "Traceback" not in streams.err
    assert re.search(message, streams.err)


def test_a_folder_without_texts_says_so(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", str(tmp_path), "--model", str(exported)]) == 2
    assert "is a folder without a text" in capsys.readouterr().err


def test_a_truncated_bundle_is_one_message(
    bundle_copy: Path, article: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = bundle_copy / "onnx" / "model_quantized.onnx"
    file.write_bytes(file.read_bytes()[:1000])
    (bundle_copy / "onnx" / "model.onnx").write_bytes(b"")
    assert main(["read", str(article), "--model", str(bundle_copy)]) == 2
    assert "truncated or altered" in capsys.readouterr().err


def test_info_and_verify(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model", str(exported)]) == 0
    shown = capsys.readouterr().out
    assert "tiny" in shown and "sha256" in shown and "test/macro_f1" in shown
    assert main(["verify", "--model", str(exported)]) == 0
    assert "answered as at export" in capsys.readouterr().out


def test_classify(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", "We", "reject", "the", "plan", "for", "Oslo.", "--model", str(exported)]) == 0
    assert "rejection" in capsys.readouterr().out


def test_the_table_marks_intents_with_words_not_colour_alone() -> None:
    statement = communique.Statement("We refuse.", ("rejection",), {"proposal": 0.1, "rejection": 0.9}, 0, 10)
    plain = table([statement], ("proposal", "rejection"))
    assert plain.splitlines()[0].split() == ["rejection", "0.90", "We", "refuse."]
    assert "\033[" not in plain
    assert "rejection 0.90" in table([statement], ("proposal", "rejection"), colour=True)


def test_a_folder_and_a_pattern_are_read_whole(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b.md", "a.txt", "deep/c.TXT", "data.csv", ".hidden/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("It rained.", encoding="utf-8")
    assert main(["read", str(tmp_path), "--json", "--model", str(exported)]) == 0
    files = [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()]
    assert files == [str(tmp_path / name) for name in ("a.txt", "b.md", "deep/c.TXT")]
    assert main(["read", str(tmp_path / "**" / "*.txt"), "--json", "--model", str(exported)]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(tmp_path / "a.txt")
    assert main(["read", str(tmp_path / "*.odt"), "--model", str(exported)]) == 2
    assert "no file matches" in capsys.readouterr().err


def test_a_bad_file_does_not_keep_the_others_from_being_read(
    exported: Path, article: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.7\n")
    (tmp_path / "wide.txt").write_bytes("It rained.".encode("utf-16"))
    names = [str(tmp_path / "scan.pdf"), str(article), str(tmp_path / "wide.txt"), str(tmp_path / "gone.txt")]
    assert main(["read", *names, "--json", "--model", str(exported)]) == 2
    streams = capsys.readouterr()
    assert {json.loads(line)["file"] for line in streams.out.splitlines()} == {str(article)}
    problems = streams.err.splitlines()
    assert [part in line for part, line in zip(("plain text", "UTF-16", "no such"), problems, strict=True)] == [
        True
    ] * 3


def test_several_outputs_at_once(
    exported: Path, article: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, table, lines = (tmp_path / name for name in ("out.html", "out.csv", "out.jsonl"))
    outputs = ["--html", str(page), "--csv", str(table), "--json", str(lines)]
    assert main(["read", str(article), *outputs, "--min-confidence", "0.5", "--model", str(exported)]) == 0
    assert capsys.readouterr().out == ""
    records = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [record["unsure"] for record in records] == [record["confidence"] < 0.5 for record in records]
    rows = list(csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines()))
    assert list(rows[0]) == [
        "file", "start", "end", "text", "intents", "proposal", "condition", "rejection", "reaction",
        "confidence", "unsure",
    ]  # fmt: skip
    assert [row["text"] for row in rows] == [record["text"] for record in records]
    assert [row["unsure"] == "true" for row in rows] == [record["unsure"] for record in records]
    assert rows[0]["file"] == str(article)
    assert "We reject the plan for Oslo." in re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8"))


def test_the_page_has_the_deciding_words_unless_told_not_to(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # which words those are is the model's affair, and this one's is odd
    monkeypatch.setattr(
        "communique.explain.weigh", lambda model, text: (Word(text[:3], 0, 3, dict.fromkeys(model.classes_, 2.5)),)
    )
    article, page = tmp_path / "article.txt", tmp_path / "out.html"
    article.write_text("The minister of Oslo said: we reject the plan for Lima.", encoding="utf-8")
    for options, told in (([], True), (["--no-explain"], False)):
        assert main(["read", str(article), "--html", str(page), *options, "--model", str(exported)]) == 0
        assert ("<b>The</b> 2.5" in page.read_text(encoding="utf-8")) == told


def test_an_option_never_takes_a_document_for_its_output(
    exported: Path, article: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", "--json", str(article), "--model", str(exported)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["read", "--html", str(article), "--model", str(exported)]) == 2
    assert "ends in .html" in capsys.readouterr().err
    assert article.read_text(encoding="utf-8") == DOCUMENT
    assert main(["read", str(article), "--json", "--csv", "--model", str(exported)]) == 2
    assert "cannot share standard output" in capsys.readouterr().err
    assert main(["read", str(article), "--csv", str(tmp_path / "no" / "out.csv"), "--model", str(exported)]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "'quoted'", "＝1", 'plain, "said" he\nthen', "a=1"])
def test_no_cell_is_a_formula_and_each_text_can_be_had_back(text: str) -> None:
    statement = communique.Statement(text, ("rejection",), {"rejection": 0.9}, 0, len(text))
    ((name, _, _, cell, *_),) = csv.reader(io.StringIO(csv_rows([statement], "=name")))
    assert name == "'=name" and cell[0] not in "=+-@＝"
    assert cell.removeprefix("'") == text


def test_the_table_marks_what_is_unsure() -> None:
    sure = communique.Statement("We refuse.", ("rejection",), {"rejection": 0.9}, 0, 10, 0.8, False)
    unsure = communique.Statement("Well.", ("rejection",), {"rejection": 0.6}, 11, 16, 0.1, True)
    lines = table([sure, unsure], ["rejection"]).splitlines()
    assert "?" not in lines[0] and lines[1].startswith("rejection 0.60 ?") and lines[-1].endswith("unsure 1")
    assert "\033" not in table([communique.Statement("\033[2JNo.", (), {"rejection": 0.1}, 0, 6)], ["rejection"])


def test_progress_shows_after_two_seconds_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for terminal in (True, False):
        screen = io.StringIO()
        monkeypatch.setattr(screen, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr("sys.stderr", screen)
        now = 0.0
        progress = Progress("reading", 100, "characters")
        now = 1.9
        progress.advance(10)
        assert screen.getvalue() == ""
        now = 4.0
        progress.advance(40)
        progress.clear()
        if terminal:
            assert " 50%  12 characters/s  4 s left" in screen.getvalue() and screen.getvalue().endswith("\r\033[K")
        else:
            assert screen.getvalue() == ""


PAGE = """<!DOCTYPE html><html><head><title>News</title><style>p {}</style></head><body><nav><a>Home</a></nav>
<h1>Talks</h1><p>We <b>reject</b> the plan
for Oslo &amp; Lima.<br>It rained.</p><ul><li>one<li>two</ul><script>x("We refuse.")</script></body></html>"""


@pytest.mark.parametrize("name", ["page.html", "page.txt"])
def test_a_page_is_read_without_its_tags(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_text(PAGE, encoding="utf-8")
    assert main(["read", str(tmp_path / name), "--json", "--model", str(exported)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["text"] for one in found] == [
        "Talks",
        "We reject the plan for Oslo & Lima.",
        "It rained.",
        "one",
        "two",
    ]
    assert all(text_of(PAGE)[one["start"] : one["end"]] == one["text"] for one in found)


def test_a_document_is_not_overwritten_by_what_is_said_of_it(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE, encoding="utf-8")
    assert main(["read", str(page), "--html", str(page), "--model", str(exported)]) == 2
    assert "one of the documents to read" in capsys.readouterr().err and page.read_text(encoding="utf-8") == PAGE


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("plain & simple", "plain & simple\n"),
        ("<p>a<p>b</div></nav>c", "a\n\nb\n\nc\n"),
        ("<pre>one\ntwo\n\nthree</pre>", "one\ntwo\n\nthree\n"),
        ("<table><tr><td>1</td><td>2</td></tr></table>", "1\n\n2\n"),
        ("a<![x[b]]>c<!-- d -->e&nbsp;f &lt;g", "ace\u00a0f <g\n"),
        ("<script>never closed", "\n"),
        ("3 < 4 and <", "3 < 4 and <\n"),
    ],
)
def test_html_gives_its_text(html: str, text: str) -> None:
    assert text_of(html) == text


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["<", ">", "</", "<!", "![", "[", "]]>", "--", "p", "pre", "nav", "/", "&#x0;", " ", "é"]))
)
def test_any_tag_soup_gives_text(parts: list[str]) -> None:
    assert text_of("".join(parts)).endswith("\n")
