"""A training that is cut short goes on, and ends as if it had never stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import checkpoint, config, encoder, run, tracking
from training import corpus as corpora
from training.checkpoint import Checkpoints, alone
from training.errors import RunError
from training.files import sha256
from training.train import train

# everything that a training draws from, and every place where it can be: swaps, dropout, an average, epochs without gain
RECIPE = ["epochs=6", "dropout=0.1", "swap_actors=0.5", "ema=0.9", "patience=4", "learning_rate=1e-3"]
PROCESSES = multiprocessing.get_context("forkserver")  # torch is imported once, then forked with no thread of its own
PROCESSES.set_forkserver_preload(["training.encoder", "training.train", "training.report", "tests.conftest"])


def _train(file: Path, folder: Path, every: float, die_at: int = 0) -> None:
    """In a process of its own: saves every so many seconds; is killed as it flushes for the `die_at`-th time."""
    checkpoint.EVERY, checkpoint.SHARE = every, 1.0
    flush, flushed = os.fsync, 0

    def counted(place: int) -> None:
        nonlocal flushed
        flushed += 1
        if flushed == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(place)

    os.fsync = counted  # type: ignore[assignment]
    with (folder.parent / "output").open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        from training.__main__ import main

        arguments = ["train", str(file), "--output", str(folder), "--no-track"]
        os._exit(main([*arguments, *(part for one in RECIPE for part in ("--set", one))]))


def _started(file: Path, folder: Path, every: float = 0.05, die_at: int = 0) -> Any:
    folder.parent.mkdir(exist_ok=True)
    process = PROCESSES.Process(target=_train, args=(file, folder, every, die_at))
    process.start()
    return process


def _until(there: Callable[[], object], process: Any) -> None:
    while process.is_alive() and not there():
        time.sleep(0.01)


def _saved(folder: Path) -> list[Path]:
    return sorted(place for place in (folder / "checkpoint").glob("*") if place.name.isdigit())


def _result(folder: Path) -> dict[str, Any]:
    """All that must not differ: the weights' bytes, and every figure that is not a time."""
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    figures = json.loads((folder / "metrics.json").read_text())
    return {
        "weights": sha256(folder / "model" / "model.safetensors"),
        "calibration": sha256(folder / "calibration.json"),
        "predictions": sha256(folder / "predictions" / "test.jsonl"),
        "history": [{name: value for name, value in row.items() if name != "time"} for row in history],
        "figures": {name: value for name, value in figures.items() if not name.startswith("time/")},
        "names": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
        "status": run.begun(folder)["status"],
    }


@pytest.fixture(scope="module")
def whole(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing stopped, and that saved at its epochs' ends only."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = _started(tiny_config, folder, every=1e9)
    process.join()
    assert process.exitcode == 0, (folder.parent / "output").read_text()
    return folder


@pytest.fixture
def half(tiny_config: Path, tmp_path: Path) -> Path:
    """A training that was killed between two updates, with two checkpoints."""
    folder = tmp_path / "half" / "run"
    process = _started(tiny_config, folder, every=0.0, die_at=5 * 25 + 1)
    process.join()
    assert process.exitcode == -signal.SIGKILL and len(_saved(folder)) == 2
    return folder


def _finished(file: Path, folder: Path) -> str:
    process = _started(file, folder)
    process.join()
    output = (folder.parent / "output").read_text()
    assert process.exitcode == 0, output
    return output


def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    whole: Path, tiny_config: Path, tmp_path: Path
) -> None:
    moments, folder, kills = random.Random(7), tmp_path / "run", 0
    process = _started(tiny_config, folder)
    while process.exitcode != 0:
        if kills < 6:
            seen = len(_saved(folder)) and _saved(folder)[-1].name
            _until(lambda seen=seen: _saved(folder) and _saved(folder)[-1].name != seen, process)
            process.join(moments.uniform(0, 0.6))
            process.kill()
        process.join()
        if process.exitcode != 0:
            assert process.exitcode == -signal.SIGKILL, (tmp_path / "output").read_text()
            kills += 1
            process = _started(tiny_config, folder)
    assert kills >= 3 and (tmp_path / "output").read_text().count("going on from epoch") >= 3
    assert _result(folder) == _result(whole)
