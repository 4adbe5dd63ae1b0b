"""One page a run that stands alone, for every family and task, and for old folders."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from training import config, evaluation, report
from training.__main__ import main
from training.train import train

EVIL = '<script>alert("1")</script> & <img src=http://example.org/x.png>'
VOID = {"meta", "br", "img", "link", "path"}


class Page(HTMLParser):
    """Collects a page's tags and what they would load; refuses tags that close out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loaded: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action") or "url(" in (value or ""):
                self.loaded.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def read(folder: Path) -> tuple[str, Page]:
    text = (folder / report.PAGE).read_text(encoding="utf-8")
    page = Page(text)
    assert text.startswith("<!doctype html>") and "script" not in page.tags and "link" not in page.tags
    assert not [one for one in page.loaded if not one.startswith(("#", "url(#"))], "nothing is fetched"
    assert "@import" not in text and "None" not in text and "nan" not in text.split("<main>")[1].split()
    return text, page


def test_training_leaves_a_page(tiny_run: Path) -> None:
    text, page = read(tiny_run)
    figures = json.loads((tiny_run / "metrics.json").read_text())
    low, high = (f"{figures[f'test/macro_f1_{end}']:.3f}" for end in ("low", "high"))
    assert f"{figures['test/macro_f1']:.3f}" in text and f"{low} to {high}" in text
    assert "corpus tiny 1.0.0" in text and "learning_rate: 0.002" in text and "svg" in page.tags
    for heading in ("Test split", "Validation split", "Learning curve", "Behavioural suites"):
        assert f"<h2>{heading}</h2>" in text
    behaviour = [json.loads(line) for line in (tiny_run / "predictions/behaviour.jsonl").read_text().splitlines()]
    assert all(f"{row['id']} · " in text for row in behaviour if not row["passed"])


def test_an_outside_evaluation_is_on_it_and_nothing_in_a_text_is_run(
    tiny_run: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    rows = [json.loads(line) for line in (tiny_corpus / "test.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row |= {"source": "<b>wire</b>" if i % 2 else "press", "intents": ["reaction"]}
        row["text"] = f"{row['text']} {EVIL}"
    (tmp_path / "real.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation.run_on(str(folder), tmp_path / "real.jsonl", None)
    text, page = read(folder)
    assert "<h2>real</h2>" in text and "On <b>real</b> (48 texts)" in text
    assert "&lt;script&gt;" in text and "&lt;b&gt;wire&lt;/b&gt;" in text and "img" not in page.tags
    slices = json.loads((folder / "analysis/real.json").read_text())["slices"]
    assert {one["value"]: one["texts"] for one in slices if one["field"] == "source"} == {
        "press": 24, "<b>wire</b>": 24,
    }  # fmt: skip
    assert (folder / "figures/real-coverage.png").exists() and (folder / "analysis/real-errors.csv").exists()


def test_a_file_without_any_intent(tiny_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    rows = [{"id": str(i), "text": f"It rained for {i} days.", "intents": []} for i in range(6)]
    (tmp_path / "quiet.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation.run_on(str(folder), tmp_path / "quiet.jsonl", None)
    assert "<h2>quiet</h2>" in read(folder)[0]


def test_the_baseline_has_one_without_a_learning_curve(tiny_corpus: Path, tmp_path: Path) -> None:
    settings = config.load("configs/tfidf.yaml", [f"corpus={tiny_corpus}", "min_count=1"])
    text, _ = read(train(settings, tmp_path / "tfidf", track=False))
    assert "<h1>tfidf</h1>" in text and "Learning curve" not in text


def test_a_single_label_run_has_one(tiny_corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "single"
    other.mkdir()
    labels = [r"$\bad$", "<i>", "c"]  # neither mathematics nor markup
    head = {"name": "single", "version": "1.0.0", "task": "single_label", "labels": labels}
    (other / "corpus.json").write_text(json.dumps(head))
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (tiny_corpus / f"{split}.jsonl").read_text().splitlines()]
        for row in rows:
            row["intents"] = [labels[0 if "propose" in row["text"] else 1 if "reject" in row["text"] else 2]]
        (other / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = config.load("configs/tfidf.yaml", [f"corpus={other}", "min_count=1"])
    text, _ = read(train(settings, tmp_path / "run", track=False))
    assert "single-label" in text and r"$\bad$" in text and "&lt;i&gt;" in text
    assert "threshold</th>" not in text and "background F1</th>" in text and "Behavioural" not in text


def test_an_old_folder_still_has_one_and_the_command_tells_where(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Older runs say less in their predictions, have no behavioural outcomes, and figures of files that are gone."""
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    for made in ("analysis", "figures"):
        shutil.rmtree(folder / made)
    (folder / "report.html").unlink()
    (folder / "predictions/behaviour.jsonl").unlink()
    for file in (folder / "predictions").glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        kept = ("id", "text", "intents", "probabilities")
        file.write_text("".join(json.dumps({key: row[key] for key in kept}) + "\n" for row in rows))
    metrics = json.loads((folder / "metrics.json").read_text())
    gone = {name.replace("test/", "gone/"): value for name, value in metrics.items() if name.startswith("test/")}
    (folder / "metrics.json").write_text(json.dumps(metrics | gone))
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    text, _ = read(folder)
    assert ">gone</th>" in text and "Behavioural" not in text
    assert (folder / "figures/history.png").exists()


def test_the_page_is_made_anew_the_same(tiny_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / tiny_run.name))
    assert report.write(folder).read_bytes() == (tiny_run / report.PAGE).read_bytes()
