"""Every example runs, and says what the runtime says."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas
import pytest

import communique
from communique import Classifier, bundle
from tests.conftest import ROOT
from training import corpus, registry

EXAMPLES = ROOT / "examples"
DOCUMENT = (
    "The minister of Oslo said: we reject the plan for Lima. The minister of Lima said: we propose talks in Bern."
)


@pytest.fixture(scope="module")
def classifier(exported: Path) -> Classifier:
    return communique.load(exported)


@pytest.fixture(scope="module")
def texts(tiny_corpus: Path) -> list[str]:
    return corpus.load(tiny_corpus).test.texts


def _python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / script, *map(str, arguments)]
    # the checkout's communique, whatever else is installed
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_script_reads_an_article(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "article.txt").write_text(DOCUMENT)
    done = _python("script.py", tmp_path / "article.txt", "--bundle", exported, "--intent", "rejection")
    first, last = done.stdout.splitlines()
    assert first.endswith("The minister of Oslo said: we reject the plan for Lima.")
    assert last == "2 sentences: proposal 1, condition 0, rejection 1, reaction 0"


def test_the_script_says_what_is_wrong(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "article.txt").write_text(DOCUMENT)
    missing = _python("script.py", tmp_path / "no.txt", "--bundle", exported)
    unknown = _python("script.py", tmp_path / "article.txt", "--bundle", exported, "--intent", "threat")
    assert missing.returncode == unknown.returncode == 2
    assert "no.txt" in missing.stderr and "proposal, condition" in unknown.stderr
    assert "Traceback" not in missing.stderr + unknown.stderr


def test_the_table_gets_its_columns(exported: Path, classifier: Classifier, texts: list[str], tmp_path: Path) -> None:
    pandas.DataFrame({"id": range(7), "said": [*texts[:6], None]}).to_csv(tmp_path / "in.csv", index=False)
    done = _python("pandas_column.py", tmp_path / "in.csv", "said", tmp_path / "out.csv", "--bundle", exported)
    assert done.returncode == 0, done.stderr
    labelled = pandas.read_csv(tmp_path / "out.csv", keep_default_na=False, na_values={"p_proposal": ""})
    expected = classifier(texts[:6])
    assert labelled["intents"].tolist() == [*(" ".join(one.intents) for one in expected), ""]
    assert labelled["p_proposal"][:6].tolist() == pytest.approx([one.probabilities["proposal"] for one in expected])
    assert labelled["p_proposal"].isna().tolist() == [False] * 6 + [True]
    wrong = _python("pandas_column.py", tmp_path / "in.csv", "text", tmp_path / "out.csv", "--bundle", exported)
    assert wrong.returncode == 2 and wrong.stderr == "no column 'text'; found id, said\n"


def test_a_table_may_name_rows_twice(classifier: Classifier, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    from pandas_column import with_intents

    frame = pandas.DataFrame({"said": [texts[1], None, texts[2]]}, index=["a", "a", "b"])
    labelled = with_intents(frame, "said", classifier)
    assert labelled["intents"].tolist() == ["proposal", pytest.approx(float("nan"), nan_ok=True), "condition"]
    assert list(frame) == ["said"], "the table that was given stays as it was"


@pytest.fixture(scope="module")
def registered(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as a model of MLflow's."""
    return registry.save(exported, bundle.verify(exported), tmp_path_factory.mktemp("registered"))


def test_spark_labels_a_column(
    registered: Path, exported: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("pyspark") is None:
        pytest.skip("pyspark is not installed: pip install pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not installed")
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    said = [*texts[:20], None]
    lines = [json.dumps({"id": place, "said": text}) + "\n" for place, text in enumerate(said)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    command = (
        "spark.py",
        tmp_path / "in.jsonl",
        "said",
        tmp_path / "out.parquet",
        "--model",
        registered,
        "--precision",
        "fp32",
    )
    done = _python(*command)
    assert done.returncode == 0, done.stderr
    assert "21 rows in" in done.stdout
    labelled = pandas.read_parquet(tmp_path / "out.parquet").set_index("id").sort_index()
    expected = communique.load(exported, precision="fp32")(texts[:20])
    for found, one in zip(labelled[:20].to_dict("records"), expected, strict=True):
        assert (found["said"], tuple(found["intents"])) == (one.text, one.intents)
        probabilities = {label: found[f"p_{label}"] for label in one.probabilities}
        assert probabilities == pytest.approx(one.probabilities, abs=1e-5)
    assert labelled["intents"][20] is None and labelled.loc[20, ["p_proposal", "confidence"]].isna().all()
    again = _python(*command)
    assert again.returncode == 2 and "already exists" in again.stderr and "Traceback" not in again.stderr


@pytest.fixture(scope="module")
def service(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("service") / "log"
    script = [sys.executable, EXAMPLES / "service.py"]
    command = [*script, "--bundle", exported, "--precision", "fp32", "--port", str(port)]
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    try:
        deadline = time.monotonic() + 60
        while "Uvicorn running" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
    assert "Traceback" not in log.read_text()


def _ask(address: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


def test_the_service_answers_many_at_once_each_its_own(service: str, exported: Path, texts: list[str]) -> None:
    classifier = communique.load(exported, precision="fp32")
    questions = [texts[i % len(texts) :][: 1 + i % 5] for i in range(48)]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda asked: _ask(f"{service}/classify", {"texts": asked}), questions))
    for asked, (status, answer) in zip(questions, answers, strict=True):
        expected = classifier(asked)
        assert status == 200 and [tuple(one["intents"]) for one in answer["statements"]] == [
            one.intents for one in expected
        ]
        for found, one in zip(answer["statements"], expected, strict=True):
            assert found["probabilities"] == pytest.approx(one.probabilities, abs=1e-5)
    status, health = _ask(f"{service}/health")
    assert status == 200 and health["status"] == "ok" and health["waiting"] == 0
    assert health["labels"] == list(classifier.classes_)


def test_the_service_reads_a_document(service: str) -> None:
    status, answer = _ask(f"{service}/read", {"document": DOCUMENT})
    assert status == 200
    places = [(one["intents"], DOCUMENT[one["start"] : one["end"]]) for one in answer["statements"]]
    assert places == [
        (["rejection"], "The minister of Oslo said: we reject the plan for Lima."),
        (["proposal"], "The minister of Lima said: we propose talks in Bern."),
    ]
    assert _ask(f"{service}/read", {"document": ""}) == (200, {"statements": []})


@pytest.mark.parametrize(
    "path, body, status, message",
    [
        ("classify", {"texts": []}, 422, "body.texts: List should have at least 1 item"),
        ("classify", {"texts": ["a"] * 65}, 422, "body.texts: List should have at most 64 items"),
        ("classify", {"texts": ["a", "b" * 5001]}, 422, "body.texts.1: String should have at most 5000 characters"),
        ("classify", {"texts": ["a", 3]}, 422, "body.texts.1: Input should be a valid string"),
        ("classify", {"texts": "a text"}, 422, "body.texts: Input should be a valid list"),
        ("classify", {"text": "a text"}, 422, "body.texts: Field required; body.text: Extra inputs"),
        ("classify", b'{"texts": ["\\ud800"]}', 422, "body.texts.0: Input should be a valid string"),
        ("classify", b"{", 422, "JSON decode error"),
        ("read", {"document": "b" * 100_001}, 422, "body.document: String should have at most 100000 characters"),
        ("read", b" " * (2 * 1024 * 1024 + 1), 413, "at most 2097152 bytes, found 2097153"),
    ],
)
def test_the_service_says_what_it_does_not_take(service: str, path: str, body: Any, status: int, message: str) -> None:
    found, answer = _ask(f"{service}/{path}", body)
    assert found == status and message in answer["error"]
    assert "bbb" not in answer["error"], "a text is not sent back"


def test_the_service_holds_a_body_without_length_off(service: str) -> None:
    host, port = service.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 411 ")


class _Counting:
    """Stands where the classifier does, and writes down what it was given."""

    def __init__(self) -> None:
        self.passes: list[list[str]] = []

    def __call__(self, texts: list[str]) -> list[str]:
        self.passes.append(list(texts))
        if "broken" in texts:
            raise RuntimeError("broken")
        return [text.upper() for text in texts]


def test_requests_that_come_together_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import service

    model = _Counting()

    async def ask() -> tuple[list[Any], int]:
        batcher = service.Batcher(model)
        answers = await asyncio.gather(*(batcher.classify([f"a{i}", f"b{i}"]) for i in range(100)))
        batcher.close()
        return answers, batcher.waiting

    answers, waiting = asyncio.run(ask())
    assert answers == [[f"A{i}", f"B{i}"] for i in range(100)] and waiting == 0
    assert [len(texts) for texts in model.passes] == [128, 72]


def test_a_pass_that_fails_fails_its_own_and_a_full_service_turns_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import service

    monkeypatch.setattr(service, "BATCH", 2)
    monkeypatch.setattr(service, "MAX_WAITING", 3)

    async def ask() -> tuple[list[Any], int]:
        batcher = service.Batcher(_Counting())
        asked = (["a", "broken"], ["c"], ["d"])
        answers = await asyncio.gather(*map(batcher.classify, asked), return_exceptions=True)
        batcher.close()
        return answers, batcher.waiting

    (broken, fine, turned_away), waiting = asyncio.run(ask())
    assert isinstance(broken, RuntimeError) and fine == ["C"] and isinstance(turned_away, service.FullError)
    assert waiting == 0


NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "ERR_SOCKET_TIMEOUT")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node example with its packages, in a folder of its own."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(["npm", "ci", "--prefer-offline"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and any(code in done.stderr for code in NO_NETWORK):
        pytest.skip("npm cannot reach its registry")
    assert done.returncode == 0, done.stderr
    return folder


def _same_in_node(node: Path, bundle: Path, dtype: str, texts: list[str]) -> None:
    precision, tolerance = {"fp32": ("fp32", 1e-5), "q8": ("int8", 1e-3)}[dtype]
    command = ["node", "classify.mjs", str(bundle), dtype]
    done = subprocess.run(command, cwd=node, input="\n".join(texts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    classifier = communique.load(bundle, precision=precision)
    for text, answer in zip(texts, answers, strict=True):
        expected = classifier(text)
        assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=tolerance)
        assert tuple(answer["intents"]) == expected.intents


@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_node_answers_as_the_runtime(node: Path, exported: Path, texts: list[str], dtype: str) -> None:
    long = " ".join(texts[:2])[:120]
    _same_in_node(node, exported, dtype, [*texts[:12], long, "naïve — 中文 “quoted” 🕊"])


def test_node_lets_texts_leave_early_as_the_runtime_does(node: Path, leaving: Path, texts: list[str]) -> None:
    _same_in_node(node, leaving, "q8", texts[:12])


@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_node_answers_as_the_runtime_with_the_real_model(node: Path, dtype: str) -> None:
    if not (ROOT / "bundles" / "model").is_dir():
        pytest.skip("bundles/model is not there: make export")
    lines = (ROOT / "datasets" / "statements" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    _same_in_node(
        node, ROOT / "bundles" / "model", dtype, [" ".join(json.loads(line)["text"].split()) for line in lines]
    )
