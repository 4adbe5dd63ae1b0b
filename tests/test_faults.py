"""What a machine does to a program: no room, no rights, no home, no network, a clock that runs back."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import communique
from communique import bundle
from communique.errors import BundleError
from training import config, run, view
from training.__main__ import main
from training.package import _moved
from training.train import train

ROOT = Path(__file__).resolve().parent.parent
NOWHERE = Path("/sys/nowhere")  # where not even root can write
linux = pytest.mark.skipif(not NOWHERE.parent.is_dir(), reason="no /sys here")


@pytest.fixture
def table(tiny_corpus: Path, tmp_path: Path) -> Path:
    rows = [json.loads(line) for line in (tiny_corpus / "train.jsonl").read_text().splitlines()]
    rows = [{"text": row["text"], "labels": row["intents"] or ["none"], "group": row["scenario"]} for row in rows]
    file = tmp_path / "table.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """Files of this process end at 5,000 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _commands(table: Path, tiny_corpus: Path, tiny_run: Path, bundle: Path, output: Path) -> list[list[str]]:
    commands = [
        ["import", table, "--text", "text", "--labels", "labels", "--group", "group", "--out", output],
        ["train", "configs/tfidf.yaml", "--set", f"corpus={tiny_corpus}", "--no-track", "--output", output],
        ["export", tiny_run, "--output", output],
        ["package", bundle, "--output", output],
        ["corpus", tiny_corpus, "--out", output],
    ]
    return [[str(part) for part in command] for command in commands]


def _refused(command: list[str], reasons: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2, command
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("training: ") and any(reason in last for reason in reasons), (command, last)


@pytest.mark.parametrize("number", [0, 1, 2], ids=["import", "train", "export"])
def test_no_room_is_one_message_and_nothing_by_halves(
    number: int, table: Path, tiny_corpus: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    command = _commands(table, tiny_corpus, tiny_run, tmp_path, output)[number]
    with no_room():
        _refused(command, ("File too large", "cannot be read"), capsys)
    assert not [path.name for path in tmp_path.rglob("*") if "partial" in path.name]
    assert run.finished(output) is None and not (output / "SHA256SUMS").exists()


@linux
def test_no_rights_are_one_message(
    table: Path, tiny_corpus: Path, tiny_run: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = ("Read-only file system", "Operation not permitted", "Permission denied")
    for command in _commands(table, tiny_corpus, tiny_run, exported, NOWHERE / "output"):
        _refused(command, reasons, capsys)


def test_a_wheel_that_finds_no_room_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "built").mkdir()
    old, new = tmp_path / "dist" / "communique-0.whl", tmp_path / "built" / "communique-1.whl"
    old.parent.mkdir()
    old.write_text("old")
    new.write_bytes(b"x" * 10_000)
    with no_room(), pytest.raises(OSError, match="too large"):
        _moved(new, old.parent)
    assert [path.name for path in old.parent.iterdir()] == [old.name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [tiny\nseed: 1\n", "not valid YAML 1.2"),
        (b"name: tiny\n\tseed: 1\n", "not valid YAML 1.2"),
        (b"\x7fELF\x02\x01\x00\x00", "not valid YAML 1.2"),
        (b"\xff\xfe\x00\x01", "cannot be read as UTF-8 text"),
    ],
)
def test_a_broken_config_is_one_message(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    assert main(["train", str(file)]) == 2
    error = capsys.readouterr().err
    assert str(file) in error and message in error


@pytest.mark.parametrize("name", ["tokenizer.json", "communique.json", "onnx/model_quantized.onnx"])
def test_a_bundle_with_rubbish_under_right_hashes_is_refused_by_name(bundle_copy: Path, name: str) -> None:
    (bundle_copy / name).write_bytes(b"\x00rubbish\xff" * 9)
    bundle.write_sums(bundle_copy)
    with pytest.raises(BundleError, match=name):
        communique.load(bundle_copy, precision="int8")


def test_a_clock_that_runs_back_leaves_order_and_durations(
    store: str, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    now, hours = time.time(), itertools.count()
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(hours))
    folder = train(config.load(tiny_config, ["epochs=3"]), tmp_path / "run")
    monkeypatch.undo()
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [1, 2, 3] and history[0]["time"] > history[2]["time"]
    assert json.loads((folder / "metrics.json").read_text())["time/fit_seconds"] > 0
    client = MlflowClient(tracking_uri=store)
    (logged,) = client.search_runs([client.get_experiment_by_name(view.EXPERIMENT).experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["train/loss"] == pytest.approx(history[-1]["train/loss"]), "the last, not the latest"
    assert train(config.load(tiny_config, ["epochs=3"]), folder, track=False) == folder, "and is found finished"


def _alone(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh process, where the environment is read."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "MPL"))}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


def test_without_a_home_it_trains_exports_and_reads(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "article.txt").write_text("We reject the plan for Oslo.")
    done = _alone(
        f"""
import os
from communique.__main__ import main as communique
from training.__main__ import main as training

os.chdir({str(tmp_path)!r})
assert training(["train", {str(tiny_config)!r}, "--set", "epochs=1", "--output", "run", "--no-track"]) == 0
assert training(["export", "run", "--output", "bundle"]) == 0
assert communique(["read", "article.txt", "--model", "bundle", "--json"]) == 0
""",
        HOME="/dev/null/home",
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["text"] == "We reject the plan for Oslo."


def test_a_hub_that_is_silent_is_one_message_within_seconds(tiny_corpus: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        arguments = ["train", "configs/deberta-v3-base.yaml", "--set", f"corpus={tiny_corpus}", "--no-track"]
        done = _alone(
            f"""
import sys, time
from training import encoder
from training.__main__ import main

start = time.monotonic()
status = main({[*arguments, "--output", str(tmp_path / "run")]!r})
sys.stderr.write(f"\\n{{time.monotonic() - start}}")
sys.exit(status)
""",
            HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}",
            HF_HOME=str(tmp_path / "cache"),
        )
    assert done.returncode == 2 and "etry" not in done.stderr, done.stderr
    *_, message, seconds = done.stderr.splitlines()
    assert "hf download microsoft/deberta-v3-base --local-dir FOLDER" in done.stderr, message
    assert float(seconds) < 25, "retries alone take 23 seconds"
