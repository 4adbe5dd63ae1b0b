"""Whatever comes in, what comes out is an answer or an error meant for people.

A few examples in `make test`, more than ten thousand others in `make fuzz`. What was found stands at the bottom.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

import communique
from communique import Classifier, Statement, bundle, documents, golden, page, reader, render
from communique.__main__ import main
from communique.errors import BundleError
from communique.explain import Word, weigh
from tests.conftest import LABELS, ROOT, rows_of
from training import config, corpus, search
from training.errors import ConfigError, CorpusError
from training.importer import Columns, convert

BUNDLE = max((ROOT / "tests" / "fixtures").glob("*/bundle"))
READ = ("communique.json", "tokenizer.json", "onnx/model_quantized.onnx")
SLOW = max(settings().max_examples // 10, 5)  # examples, where one takes long

ODD = st.sampled_from(
    ["\ud800", "\udfff", "\0", "\r", "\u2028", "\x85", "\x1b[2J", "\u202e", "<b>", "&lt;", '"', "=", "'"]
)
ANY = st.lists(ODD | st.text(st.characters(), max_size=8), max_size=8).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with up to four places changed, taken out, or filled in."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(changed)))
        # what decides stands at both ends of a model: the graph, and its inputs and outputs
        place = place % 4000 if draw(st.booleans()) else place
        changed[place : place + draw(st.integers(0, 6))] = draw(st.binary(max_size=6))
    return bytes(changed)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return communique.load(BUNDLE, threads=1, precision="fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# Configs

CONFIG = (ROOT / "configs" / "minilm.yaml").read_bytes()
SWEEP = (ROOT / "configs" / "sweep.yaml").read_bytes()
PIECES = [
    "family", "seed", "name", "search", "epochs", ": ", "\n", "  ", "- ", "[", "]", "{", "}", ",", "&a", "*a",
    "!!int ", "!!bool ", "!!float ", "!!timestamp ", "!!binary ", "!!set ", "!!python/name:os.system ", "? ", "| ",
    "> ", '"', "'", "<<: ", "2001-99-99", "0b_", "1e999", ".nan", "baseline", "encoder", "sweep", "%YAML 1.1\n",
    "---\n", "...\n", "\\U",
]  # fmt: skip
YAML = st.lists(st.sampled_from(PIECES) | ANY, max_size=24).map("".join)


@given(st.one_of(mutated(CONFIG), mutated(SWEEP), YAML.map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_config_is_taken_or_refused(folder: Path, content: bytes) -> None:
    file = folder / "any.yaml"
    file.write_bytes(content)
    for load in (config.load, search.load):
        try:
            load(file)
        except ConfigError as error:
            assert str(file) in str(error) and len(str(error)) < 10_000


@given(st.sampled_from([*config.EncoderConfig.model_fields]) | ANY, YAML)
def test_any_override_is_taken_or_refused(key: str, value: str) -> None:
    try:
        config.load(ROOT / "configs" / "minilm.yaml", [f"{key}={value}"])
    except ConfigError as error:
        assert "minilm.yaml" in str(error) or "--set" in str(error)


# Corpora


@pytest.fixture(scope="module")
def corpora(folder: Path) -> Path:
    return Path(shutil.copytree(BUNDLE.parent / "corpus", folder / "corpus"))


ROW = st.fixed_dictionaries(
    {
        "id": st.just("x") | JSON,
        "text": st.just("A text.") | ANY | JSON,
        "intents": st.lists(st.sampled_from(LABELS)) | JSON,
    },
    optional={"scenario": JSON, "voice": JSON},
)
LINE = JSON.map(json.dumps) | ROW.map(json.dumps) | st.text(max_size=20)


@given(st.lists(LINE, max_size=6).map("\n".join).map(str.encode) | mutated(json.dumps(rows_of("x", range(1))).encode()))
def test_any_split_is_taken_or_refused(corpora: Path, content: bytes) -> None:
    (corpora / "train.jsonl").write_bytes(content)
    try:
        split = corpus.load(corpora).train
    except CorpusError as error:
        assert "train.jsonl" in str(error)
    else:
        assert split.truth.shape == (len(split), 4)
        json.dumps(split.rows, ensure_ascii=False).encode()


HEAD = {"name": "tiny", "version": "1.0.0", "task": "multi_label", "labels": LABELS}


@given(
    st.builds(lambda key, value: json.dumps({**HEAD, key: value}), st.sampled_from([*HEAD]), JSON)
    | JSON.map(json.dumps)
)
def test_any_head_is_taken_or_refused(folder: Path, content: str) -> None:
    place = folder / "headed"
    if not place.exists():
        shutil.copytree(BUNDLE.parent / "corpus", place)
    (place / "corpus.json").write_text(content)
    try:
        corpus.load(place)
    except CorpusError as error:
        assert str(place) in str(error)


CELL = ANY.filter(lambda text: "\0" not in text).map(lambda text: text.encode("utf-8", "replace").decode())
CELLS = CELL | st.sampled_from(["a", "b", "c", "", "1", "1.5", "nan", "true", "null"])


@settings(max_examples=SLOW, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=30),
    st.sampled_from(["csv", "jsonl"]),
    st.sampled_from([None, ";"]),
)
def test_any_table_is_imported_or_refused(
    folder: Path, rows: list[tuple[str, str, str]], kind: str, separator: str | None
) -> None:
    shutil.rmtree(folder / "imported", ignore_errors=True)
    file = folder / f"table.{kind}"
    if kind == "csv":
        file.write_text(render.csv_lines([("t", "l", "g"), *rows]), encoding="utf-8", newline="")
    else:
        file.write_text(
            "".join(json.dumps(dict(zip("tlg", row, strict=True))) + "\n" for row in rows), encoding="utf-8"
        )
    try:
        convert({"train": file}, Columns("t", "l", "g", separator), folder / "imported")
    except CorpusError:
        assert not (folder / "imported").exists()
    else:
        assert sum(map(len, corpus.load(folder / "imported").splits)) <= len(rows)


# datasets leaves a file that it cannot parse open until it is collected
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@settings(max_examples=SLOW, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.sampled_from(["csv", "tsv", "json", "jsonl", "parquet"]),
    st.binary(max_size=60) | YAML.map(lambda text: text.encode("utf-8", "replace")),
)
@example("jsonl", b"")
def test_any_file_is_imported_or_refused(folder: Path, kind: str, content: bytes) -> None:
    shutil.rmtree(folder / "imported", ignore_errors=True)
    file = folder / f"any.{kind}"
    file.write_bytes(content)
    with pytest.raises(CorpusError, match=r"any|train"):
        convert({"train": file}, Columns("t", "l"), folder / "imported")


# Bundles


@pytest.fixture(scope="module")
def held(folder: Path) -> Path:
    return Path(shutil.copytree(BUNDLE, folder / "bundle"))


NAMES = sorted(file.relative_to(BUNDLE).as_posix() for file in BUNDLE.rglob("*") if file.is_file())


@given(st.data(), st.sampled_from(NAMES))
def test_a_changed_byte_is_found(held: Path, data: st.DataObject, name: str) -> None:
    whole = (BUNDLE / name).read_bytes()
    content = data.draw(mutated(whole))
    (held / name).write_bytes(content)
    try:
        for check, files in ((bundle.verify, NAMES), (bundle.read, READ)):
            try:
                check(held)
                # of the list of hashes, only what it says counts: not the end of its last line, say
                assert content == whole or name not in files or name == bundle.SUMS
            except BundleError as error:
                assert name in str(error) or name == bundle.SUMS
    finally:
        (held / name).write_bytes(whole)


MANIFEST = json.loads((BUNDLE / "communique.json").read_text())


OTHER = st.dictionaries(st.sampled_from([*MANIFEST]), JSON, min_size=1, max_size=2)


@given(
    OTHER.map(lambda new: json.dumps({**MANIFEST, **new}).encode()) | mutated((BUNDLE / "communique.json").read_bytes())
)
def test_a_manifest_with_right_hashes_is_refused_or_harmless(held: Path, content: bytes) -> None:
    (held / "communique.json").write_bytes(content)
    bundle.write_sums(held)
    try:
        manifest = bundle.read(held).manifest
        assert all(label.isprintable() for label in manifest.labels)
        golden.check(held)
    except BundleError as error:
        assert str(held) in str(error)
    assert main(["info", "--model", str(held)]) in (0, 2)


@pytest.mark.parametrize(("part", "name"), [("tokenizer", "tokenizer.json"), ("model", "onnx/model.onnx")])
@given(data=st.data())
def test_a_model_with_right_hashes_is_refused_or_answers(part: str, name: str, data: st.DataObject) -> None:
    source = bundle.read(BUNDLE, "fp32")
    changed = dataclasses.replace(source, **{part: data.draw(mutated((BUNDLE / name).read_bytes()))})
    try:
        found = Classifier(changed, threads=1).predict_proba(["We reject the plan for Oslo.", "", "naïve \0 " * 40])
        assert found.shape == (3, 4) and np.isfinite(found).all()
    except BundleError as error:
        assert name in str(error)


# Texts

PARTS = [
    "We agree. ", "He left", "U.S. ", "No. 5 ", "“Why?” ", "!", "?", ".", "…", "\n", "\n\n", "\r\n", " ", "\t",
    "- ", "# ", "1. ", "a) ", "> ", "| ", "---\n", "Q: ", "MR. TARN: ", "https://a.b/c ", "**", "—", "(", ")",
    "\u00a0", "Mr. ", "Nov. ", "The ",
]  # fmt: skip
DOCUMENT = st.lists(st.sampled_from(PARTS) | ANY, max_size=40).map("".join)


@given(DOCUMENT)
def test_sentences_hold_their_places_and_leave_out_nothing_but_marks(document: str) -> None:
    last = 0
    for start, end in [*reader.sentences(document), (len(document), len(document))]:
        assert last <= start <= end <= len(document)
        assert document[start:end] == document[start:end].strip() and (start < end or end == len(document))
        _only_marks(document, last, start)
        last = end


def _only_marks(document: str, at: int, end: int) -> None:
    """Fails where there is more between two sentences than white space, markers, speakers, links and bare marks."""
    if at == 0 and (header := reader._FRONT_MATTER.match(document)):
        at = header.end()
    while at < end:
        line = document[at:].partition("\n")[0]
        marks = (pattern.match(line) for pattern in (reader._MARKER, reader._DASH, reader._SPEAKER))
        if found := next((mark for mark in marks if mark and mark.end() <= end - at), None):
            at += found.end()
        elif document[at].isspace():
            at += 1
        else:
            word = document[at:end].split()[0]
            assert reader._LINK_ONLY.match(word), word
            at += len(word)


PLAIN = [
    "talks,", "offers;", "withdraw", "ceasefire.", "Monday.", "agreed?", "Oslo!", "(and)", "“never”", "x1", "10.5",
    "e.g.", "U.N.",
]  # fmt: skip
WORDS = st.lists(st.sampled_from(PLAIN), min_size=1)


@given(st.lists(WORDS.map(" ".join).map("Paragraph ".__add__), max_size=6))
def test_of_plain_prose_every_sign_is_in_a_sentence(paragraphs: list[str]) -> None:
    document = "\n\n".join(paragraphs)
    spans = list(reader.sentences(document))
    assert "".join("".join(document[start:end].split()) for start, end in spans) == "".join(document.split())


@given(DOCUMENT | st.builds(str.__mul__, ANY, st.integers(1, 3000)))
def test_any_text_gets_an_answer(classifier: Classifier, text: str) -> None:
    statement = classifier(text)
    assert statement.text == text and np.isfinite([*statement.probabilities.values()]).all()
    assert 0 <= statement.confidence <= 1
    for found in classifier.read(text[:2000]):
        assert text[found.start : found.end] == found.text
    words = weigh(classifier, text[:60])
    assert words is not None and all(text[word.start : word.end] == word.text for word in words)


# Outputs


@st.composite
def statements(draw: st.DrawFn) -> tuple[list[str], list[Statement]]:
    labels = draw(st.lists(ANY.filter(bool), min_size=1, max_size=4, unique=True))
    share = st.floats(0, 1, width=32)
    found = []
    for text in draw(st.lists(ANY, max_size=4)):
        scores = {label: draw(share) for label in labels}
        given = tuple(label for label in labels if draw(st.booleans()))
        found.append(Statement(text, given, scores, 0, len(text), draw(share), draw(st.booleans())))
    return labels, found


@given(statements(), ANY)
def test_csv_and_json_give_back_what_they_were_given(drawn: tuple[list[str], list[Statement]], name: str) -> None:
    labels, found = drawn
    head, *rows = csv.reader(io.StringIO(render.csv_header(labels) + render.csv_rows(found, name), newline=""))
    assert len(rows) == len(found) and len(head) == 7 + len(labels)
    for row, statement in zip(rows, found, strict=True):
        assert [cell.removeprefix("'") for cell in (row[0], row[3])] == [
            text[1:] if text.startswith("'") and not cell.startswith("''") else text
            for cell, text in ((row[0], name), (row[3], statement.text))
        ]
        assert not any(cell.startswith(tuple("=+-@\t\r＝＋－＠")) for cell in row)
    records = [json.loads(line) for line in render.json_lines(found, name).split("\n")[:-1]]
    assert [(record["text"], record["intents"], record["file"]) for record in records] == [
        (statement.text, list(statement.intents), name) for statement in found
    ]


@given(statements())
def test_a_table_steers_no_terminal(drawn: tuple[list[str], list[Statement]]) -> None:
    _, found = drawn
    renamed = [dataclasses.replace(one, intents=(), probabilities={"a": 0.5}) for one in found]
    assert not re.search(r"[\0-\x08\x0e-\x1b\x7f\x80-\x84]", render.table(renamed, ["a"]))


class Tags(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.texts: dict[str, str] = {}
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update((name, value or "") for name, value in attrs)
        if tag == "title" and "title" not in self.texts:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "title" and self._inside:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        for tag in self._inside:
            self.texts[tag] = self.texts.get(tag, "") + data


KNOWN_TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "bdi", "p", "form", "fieldset",
    "legend", "label", "input", "span", "abbr", "button", "nav", "div", "table", "thead", "tbody", "tr", "th", "td",
    "a", "main", "article", "svg", "rect", "strong", "b", "i", "details", "summary", "footer",
}  # fmt: skip
KNOWN_ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "autocomplete", "type", "id", "checked", "class", "title",
    "href", "scope", "aria-label", "aria-hidden", "aria-describedby", "dir", "tabindex", "role", "hidden",
    "viewbox", "preserveaspectratio", "x", "y", "width", "height",
}  # fmt: skip


@given(statements(), ANY, ANY)
def test_nothing_gets_out_of_its_place_in_a_page(
    drawn: tuple[list[str], list[Statement]], name: str, model: str
) -> None:
    labels, found = drawn
    text, placed, words = "", [], {}
    for place, one in enumerate(found):
        placed.append(dataclasses.replace(one, start=len(text), end=len(text) + len(one.text)))
        text += one.text + "\n\n"
        words[place] = (Word(one.text[:9], 0, min(9, len(one.text)), dict.fromkeys(labels, 2.0)),)
    read = documents.Document(name, text, placed, words)
    for shown in ([read], [read, read]):
        seen = Tags()
        seen.feed(page.html(shown, labels, thresholds=[0.5] * len(labels), model=model))
        assert seen.tags <= KNOWN_TAGS
        assert {attribute for attribute, _ in seen.attributes} <= KNOWN_ATTRIBUTES
        assert all(value.startswith("#d") for attribute, value in seen.attributes if attribute == "href")
        assert {value for attribute, value in seen.attributes if attribute == "http-equiv"} == {
            "Content-Security-Policy"
        }
        seen.texts["title"].encode()


# What was found


@pytest.mark.parametrize(
    "line",
    ["family: [a]", "family: {a: b}", "seed: 2001-99-99", "x: !!int abc", "x: 0b_", 'x: "\\UFFFFFFFF"', "x: !!bool z",
     "x: " + "[" * 400, "seed: 1" + "0" * 5000, "x: 2001-12-14t21:59:43.10-99:99"],
    ids=lambda line: line[:24],
)  # fmt: skip
def test_yaml_that_python_stumbles_over_is_refused(folder: Path, line: str) -> None:
    file = folder / "found.yaml"
    file.write_text(line + "\n")
    with pytest.raises(ConfigError, match=r"found\.yaml: "):
        config.load(file)


def test_a_value_that_unfolds_is_not_shown_whole(folder: Path) -> None:
    file = folder / "bomb.yaml"
    nested = "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(6))
    file.write_text("family: baseline\na: &a [x,x,x,x,x,x,x,x,x]\n" + nested + "seed: *g\n")
    with pytest.raises(ConfigError, match="seed: ") as caught:
        config.load(file)
    assert len(str(caught.value)) < 10_000


@pytest.mark.parametrize(
    "labels", [[1, 2], [["a"], ["b"]], ["a", 1], ["\x1b[2J"], [""], ["x" * 201], [str(i) for i in range(1001)]]
)
def test_labels_of_a_corpus_are_names(corpora: Path, labels: list[object]) -> None:
    kept = (corpora / "corpus.json").read_text()
    (corpora / "corpus.json").write_text(json.dumps({**HEAD, "labels": labels}))
    with pytest.raises(CorpusError, match=r"corpus\.json: labels must be"):
        corpus.load(corpora)
    (corpora / "corpus.json").write_text(kept)


def test_half_a_character_in_a_corpus_is_refused_where_it_stands(corpora: Path) -> None:
    row = {"id": "a", "text": "A text.", "intents": [], "scenario": "s"}
    pair, half = {**row, "id": "b", "text": "\U0001f54a"}, {**row, "voice": ["\ud83d"]}
    (corpora / "train.jsonl").write_text("\n".join(map(json.dumps, (row, pair, half))))
    with pytest.raises(CorpusError) as caught:
        corpus.load(corpora)
    assert "train.jsonl:3: holds half a character" in str(caught.value) and "jsonl:2" not in str(caught.value)


@pytest.mark.parametrize(
    "piece", ["!", "-", ". ", '"', "— ", "a!!!!!!!!!!", "We agree to it. ", "word.", "# a\n", "1. ", "\n "]
)
def test_reading_takes_time_in_step_with_the_length(piece: str) -> None:
    document = piece * (100_000 // len(piece)) + "x"
    began = time.process_time()
    for _ in reader.sentences(document):
        pass
    assert time.process_time() - began < 15, "10,000 marks in a row took ten seconds, and 100,000 would take 1,000"


def test_a_carriage_return_in_a_cell_does_not_end_its_row() -> None:
    ((*_, text, _, _, _, _),) = csv.reader(
        io.StringIO(render.csv_rows([Statement("a\rb", (), {"x": 0.5}, 0, 3)], "f"), newline="")
    )
    assert text == "a\rb"


def test_what_is_no_utf8_on_the_command_line_gets_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["classify", "--json"], ["explain"], ["explain", "--json"]):
        assert main([*command, "We reject \udcff it.", "--model", str(BUNDLE)]) == 0
        capsys.readouterr().out.encode()


def test_the_name_of_a_file_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a\x1b[2J\nb.txt").write_text("We agree.")
    assert main(["read", str(tmp_path), "--model", str(BUNDLE)]) == 0
    assert main(["read", str(tmp_path / "\x1b[2Jno.txt"), "--model", str(BUNDLE)]) == 2
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err and "a\ufffd[2J b.txt" in printed.out
