"""The `communique` command: what it prints, and how it refuses."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import communique
from communique.__main__ import main
from communique.render import table

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


def test_a_folder_is_no_file(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", str(tmp_path), "--model", str(exported)]) == 2
    assert "is a folder" in capsys.readouterr().err


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
