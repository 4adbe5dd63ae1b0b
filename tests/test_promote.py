"""The gate, the aliases, and the registered model in the hands of those who use it, in a real store."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import communique
from tests.conftest import LABELS, ROOT, rows_of, write_corpus
from training import behaviour, bias, config, corpus, promote, registry, tracking
from training import store as stores
from training.__main__ import main
from training.files import write_json, write_json_lines
from training.train import train

README = (ROOT / "README.md").read_text(encoding="utf-8")
FAIR = {"bias/unchanged": 0.97, "bias/largest_shift": 0.02}
TEXT = "The minister of Oslo said: we reject the plan for Lima."


def _run(folder: Path, tiny_config: Path, data: Path, *overrides: str) -> Path:
    train(config.load(tiny_config, [f"corpus={data}", *overrides]), folder, track=False)
    write_json(folder / "predictions" / "bias.json", {"figures": FAIR})
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny corpus with as many test scenarios as the test of significance asks for."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "many", (40, 8, 40))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, many: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("good")
    return _run(folder / "good", tiny_config, many), folder / "bundle"


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, many: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("poor")
    return _run(folder / "poor", tiny_config, many, "name=poor", "epochs=2"), folder / "bundle"


@pytest.fixture(autouse=True)
def suites(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavioural suites that a tiny model can pass: statements of its corpus."""
    folder = tmp_path_factory.mktemp("behaviour")
    rows = rows_of("test", range(48, 60))
    cases = [{"id": row["id"], "text": row["text"], "intents": row["intents"], "rule": 1} for row in rows]
    write_json_lines(folder / "functionality.jsonl", cases)
    for suite in ("invariance", "direction"):
        write_json_lines(folder / f"{suite}.jsonl", [])
    monkeypatch.setattr(behaviour, "FOLDER", folder)


def _promote(run_and_bundle: tuple[Path, Path], *options: str) -> int:
    folder, bundle = run_and_bundle
    return main(["promote", str(folder), "--bundle", str(bundle), *options])


def _client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=stores.uri())


def _aliases() -> dict[str, str]:
    aliases = _client().get_registered_model(registry.NAME).aliases
    return {alias: str(version) for alias, version in aliases.items()}


def test_promotion_refusal_force_and_the_way_back(
    store: str, good: tuple[Path, Path], poor: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollback"]) == 2
    assert "nothing was promoted yet" in capsys.readouterr().err

    assert _promote(good) == 0
    printed = capsys.readouterr().out
    assert "champion of communique: none yet" in printed and "is now version 1 (tiny " in printed
    assert _aliases() == {"champion": "1"}
    assert _promote(good) == 0, "the same bundle is the same version"
    assert "is the champion of communique already" in capsys.readouterr().out
    assert _aliases() == {"champion": "1"}
    assert main(["rollback"]) == 2
    assert "version 1 is the first" in capsys.readouterr().err

    assert _promote(poor) == 1
    printed = capsys.readouterr().out
    assert re.search(r"FAILED  test +macro-F1 0\.\d+, the champion's [01]\.\d+: -0\.\d+ \[", printed)
    assert "not promoted, for test" in printed and "version 1 (tiny " in printed.rpartition("not promoted")[2]
    assert _aliases() == {"champion": "1", "challenger": "2"}
    refused = _client().get_model_version(registry.NAME, "2")
    assert refused.tags["gate"] == "failed" and refused.tags["gate.failed"].startswith("test")
    assert "| test | **failed** |" in refused.description

    assert _promote(poor, "--force", " ") == 2
    assert "expected the reason" in capsys.readouterr().err
    assert _promote(poor, "--force", "for a demonstration") == 0
    assert "by force: for a demonstration" in capsys.readouterr().out
    assert _aliases() == {"champion": "2"}
    forced = _client().get_model_version(registry.NAME, "2")
    assert forced.tags["gate"] == "forced" and forced.tags["gate.forced"] == "for a demonstration"
    assert forced.tags["gate.forced_over"].startswith("version 1") and "Forced: for a demo" in forced.description

    assert main(["rollback"]) == 0
    assert "is again version 1" in capsys.readouterr().out
    assert _aliases() == {"champion": "1"}
    assert main(["rollback"]) == 2


def test_a_champion_named_by_hand_is_gone_back_to(store: str, exported: Path, tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    first = registry.register("other", exported, tracking.log(run))
    registry.crown(first)
    client = _client()
    again = client.create_model_version("other", first.source, tags={"title": "by hand"})
    client.set_registered_model_alias("other", registry.CHAMPION, again.version)
    third = client.create_model_version("other", first.source)
    registry.crown(registry._version(third))
    assert [version.number for version in registry.rollback("other")] == ["3", "2"]
    assert [version.number for version in registry.rollback("other")] == ["2", "1"]


def _load(bundle: Path) -> communique.Classifier:
    return communique.load(bundle, threads=1)


def test_each_check_can_fail_and_says_why(exported: Path, tiny_corpus: Path, many: Path) -> None:
    model = _load(exported)
    few = promote.accurate(model, model, corpus.load(tiny_corpus).test)
    assert not few.passed and "8 scenarios" in few.words
    test = corpus.load(many).test
    assert promote.accurate(model, model, test).passed
    never = _load(exported)
    never.thresholds = np.array([2, 0.5, 0.5, 0.5], dtype=np.float32)
    assert not promote.accurate(never, model, test).passed
    assert promote.accurate(model, never, test).passed
    other = _load(exported)
    other.classes_ = ("one", "two", "three", "four")
    refused = promote.accurate(model, other, test)
    assert not refused.passed and "other labels" in refused.words

    assert promote.behaves({"functionality": 0.9, "invariance": 0.9}, None).passed
    low = promote.behaves({"functionality": 0.9, "invariance": 0.8}, None)
    assert not low.passed and "invariance 0.800 (at least 0.850)" in low.words
    behind = promote.behaves({"functionality": 0.9}, {"functionality": 0.95})
    assert not behind.passed and "functionality 0.900 (at least 0.930)" in behind.words
    assert promote.behaves(None, None).passed

    assert promote.unbiased(FAIR).passed
    assert not promote.unbiased({**FAIR, "bias/unchanged": 0.94}).passed
    assert not promote.unbiased({**FAIR, "bias/largest_shift": 0.04}).passed

    assert promote.keeps_eight_bits(model.manifest).passed
    worse = replace(model.manifest, quantisation={"accepted": False, "reason": "3% of the decisions flip"})
    assert promote.keeps_eight_bits(worse) == promote.Check("int8", False, "3% of the decisions flip")
    assert not promote.keeps_eight_bits(replace(model.manifest, quantisation={})).passed


def test_a_slower_model_is_caught(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, slow, texts = _load(exported), _load(exported), [TEXT] * 20
    forward = slow._forward

    def slowly(batch: Any) -> Any:
        time.sleep(0.01)
        return forward(batch)

    monkeypatch.setattr(slow, "_forward", slowly)
    assert promote.fast(quick, slow, texts).passed and promote.fast(quick, None, texts).passed
    found = promote.fast(slow, quick, texts)
    assert not found.passed and "(at most 1.5)" in found.words


def test_bias_is_measured_where_it_is_missing(
    tiny_run: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    test = corpus.load(many).test
    asked = []

    def measured(target: str, sample: int) -> None:
        asked.append((target, sample))
        write_json(run / "predictions" / "bias.json", {"figures": FAIR})

    monkeypatch.setattr(bias, "run_on", measured)
    assert promote._bias(run, test) == FAIR and promote._bias(run, test) == FAIR
    assert asked == [(str(run), promote.BIAS_TEXTS)]
    nowhere = replace(test, rows=tuple({**row, "text": "It rained."} for row in test.rows))
    assert promote._bias(run, nowhere) is None


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path, exported: Path) -> Iterator[str]:
    """The address of a store in which the exported bundle is champion."""
    folder = tmp_path_factory.mktemp("champion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setattr(stores, "STORE", folder)
        run = Path(shutil.copytree(tiny_run, folder / "run"))
        registry.crown(registry.register(registry.NAME, exported, tracking.log(run)))
        yield stores.uri()


def _elsewhere(code: str, uri: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python where there is no checkout."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_readmes_two_lines_fetch_the_champion(champion: str, exported: Path, tmp_path: Path) -> None:
    block = next(one for one in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "@champion" in one)
    done = _elsewhere(f"{block}\nprint(classifier({TEXT!r}).intents)", champion, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(_load(exported)(TEXT).intents)


def test_the_registered_model_takes_texts_in_any_dress_and_loads_no_torch(
    champion: str, exported: Path, tmp_path: Path
) -> None:
    other = "fp32" if _load(exported).manifest.precision == "int8" else "int8"
    code = f"""
import json, sys
import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model("models:/communique@champion")
text = {TEXT!r}
inputs = [text, [text], pandas.Series([text]), pandas.DataFrame({{"any": [text]}})]
answers = [model.predict(one) for one in inputs]
refusals = []
frame = pandas.DataFrame({{"any": [1.5]}})
for wrong in (None, [None], [text, None], pandas.Series([text, float("nan")]), 3, [3], [text, 3], frame):
    try:
        refusals.append(["answered", str(model.predict(wrong))])
    except Exception as error:
        refusals.append([type(error).__name__, str(error)])
options = {{"precision": {other!r}, "threads": 1}}
model = mlflow.pyfunc.load_model("models:/communique@champion", model_config=options)
otherwise = model.predict(text)[0]["probabilities"]
heavy = sorted(set(sys.modules) & {{"torch", "transformers", "training"}})
print(json.dumps([answers, refusals, heavy, otherwise]))
"""
    done = _elsewhere(code, champion, tmp_path)
    assert done.returncode == 0, done.stderr
    answers, refusals, heavy, otherwise = json.loads(done.stdout.splitlines()[-1])
    statement = _load(exported)(TEXT)
    assert answers[0][0]["intents"] == list(statement.intents) == ["rejection"]
    assert answers[0][0]["probabilities"] == pytest.approx(statement.probabilities, abs=1e-6)
    assert all(answer == answers[0] for answer in answers) and heavy == []
    assert otherwise == pytest.approx(communique.load(exported, precision=other)(TEXT).probabilities, abs=1e-6)
    assert otherwise != pytest.approx(statement.probabilities, abs=1e-6)
    for kind, message in refusals:
        assert kind == "MlflowException" and re.search(r"row \d: expected a string|Found: NoneType", message), message
    assert "row 1: expected a string, found no value" in refusals[2][1]


def test_a_version_tells_nothing_of_the_machine(champion: str) -> None:
    version = registry.holder(registry.NAME, registry.CHAMPION)
    assert version
    folder = Path(version.source.removeprefix("file://"))
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix in ("", ".yaml", ".txt"):
            assert str(ROOT) not in file.read_text(encoding="utf-8", errors="replace"), file.name
    requirements = (folder / "requirements.txt").read_text()
    assert "onnxruntime==" in requirements and "torch" not in requirements
    assert communique.load(folder / registry.BUNDLE).classes_ == tuple(LABELS)


def test_mlflow_serves_the_champion_as_the_readme_says(champion: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/communique@champion",
        "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    assert "mlflow models serve -m models:/communique@champion --env-manager local" in README
    body = re.search(r"-d '(\{.*?\})'", README, re.DOTALL)
    assert body
    environment = {**os.environ, "MLFLOW_TRACKING_URI": champion, "HTTPS_PROXY": "http://127.0.0.1:9"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _until_ready(port, server, tmp_path / "log")
            (first, *_) = _asked(port, json.loads(body[1]))["predictions"]
            assert set(first) == {"intents", "probabilities", "confidence"} and set(first["probabilities"]) == set(
                LABELS
            )
            assert _asked(port, {"inputs": [TEXT]})["predictions"][0]["intents"] == ["rejection"]
            for wrong in (None, 3):
                with pytest.raises(urllib.error.HTTPError) as refused:
                    _asked(port, {"inputs": [TEXT, wrong]})
                assert refused.value.code == 400 and "row 1: expected a string" in refused.value.read().decode()
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=30)


def _until_ready(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("not ready after two minutes: " + log.read_text())


def _asked(port: int, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return dict(json.loads(reply.read()))
