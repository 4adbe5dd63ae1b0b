"""A training that is cut short goes on, and ends as if it had never stopped."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError

from training import checkpoint, config, run, view
from training import store as stores
from training.__main__ import main
from training.checkpoint import Checkpoints, alone
from training.errors import RunError
from training.files import sha256, write_json
from training.train import train

# everything that a training draws and keeps: swaps, dropout, an average
RECIPE = ["epochs=4", "dropout=0.1", "swap_actors=0.5", "ema=0.9", "learning_rate=1e-3"]
PROCESSES = multiprocessing.get_context("forkserver")  # torch is imported once, then forked with no thread of its own
PROCESSES.set_forkserver_preload(
    ["training.encoder", "training.train", "training.report", "transformers.models.bert.modeling_bert"]
)


def _train(file: Path, folder: Path, printed: Path, every: float, die_at: int) -> None:
    """In a process of its own: saves every so many seconds; is killed at its `die_at`-th flushed or replaced file."""
    checkpoint.EVERY, checkpoint.SHARE = every, math.inf
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
    steps = itertools.count(1)

    def deadly(step: Callable[..., None]) -> Callable[..., None]:
        def taken(*arguments: Any) -> None:
            if next(steps) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            step(*arguments)

        return taken

    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
    with printed.open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        arguments = ["train", str(file), "--output", str(folder), "--no-track"]
        os._exit(main([*arguments, *(part for one in RECIPE for part in ("--set", one))]))


def _started(file: Path, folder: Path, every: float = 0.05, die_at: int = 0, output: Path | None = None) -> Any:
    process = PROCESSES.Process(target=_train, args=(file, folder, output or folder.parent / "output", every, die_at))
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
    """A training that was killed while it saved, with two checkpoints."""
    folder = tmp_path / "run"
    process = _started(tiny_config, folder, every=0.0, die_at=3 + 1 + 25 * 5 + 2)
    process.join()
    assert process.exitcode == -signal.SIGKILL and len(_saved(folder)) == 2
    return folder


def _finished(file: Path, folder: Path) -> str:
    process = _started(file, folder)
    process.join()
    output = (folder.parent / "output").read_text()
    assert process.exitcode == 0, output
    return output


def test_killed_at_random_moments_it_ends_with_the_same_bytes(whole: Path, tiny_config: Path, tmp_path: Path) -> None:
    moments, folder = random.Random(7), tmp_path / "run"
    for _ in range(4):
        process, seen = _started(tiny_config, folder), _saved(folder)
        _until(lambda seen=seen: _saved(folder) != seen, process)
        process.join(moments.uniform(0, 0.1))
        process.kill()
        process.join()
    assert _finished(tiny_config, folder).count("going on from epoch") >= 2
    assert _result(folder) == _result(whole)


def test_killed_as_any_file_is_written_it_ends_with_the_same_bytes(
    whole: Path, tiny_config: Path, tmp_path: Path
) -> None:
    # of a start: 1 to 3 begin the folder, 4 to 27 are epochs and their checkpoints, then come figures, run.json, report
    for die_at in (2, 3, *random.Random(7).sample(range(4, 28), 2), 8, 10):
        process = _started(tiny_config, tmp_path / "run", every=1e9, die_at=die_at)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), (tmp_path / "output").read_text()
    _finished(tiny_config, tmp_path / "run")
    assert _result(tmp_path / "run") == _result(whole)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(whole: Path, tiny_config: Path, half: Path) -> None:
    newest = _saved(half)[-1] / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    output = _finished(tiny_config, half)
    assert "the checkpoint is damaged (state.safetensors: its SHA-256" in output
    assert "going on from epoch 2, update 23 of 60" in output
    assert _result(half) == _result(whole)


def test_ctrl_c_saves_marks_and_goes_on(whole: Path, tiny_config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = _started(tiny_config, folder, every=1e9)
    _until(lambda: _saved(folder), process)  # the first epoch's end
    os.kill(process.pid, signal.SIGINT)
    process.join()
    output = (tmp_path / "output").read_text()
    assert process.exitcode == 130 and "Traceback" not in output, output
    assert "stopping after this update" in output and "the same command goes on" in output
    assert run.begun(folder)["status"] == "interrupted" and run.finished(folder) is None
    assert "going on from epoch" in _finished(tiny_config, folder)
    assert _result(folder) == _result(whole)


def test_a_second_training_in_the_folder_is_refused(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    again = ["train", "configs/tfidf.yaml", "--set", f"corpus={tiny_corpus}", "--output", str(folder), "--no-track"]
    with alone(folder):
        assert main(again) == 2
    assert f"another training is at work there (process {os.getpid()})" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "neither lock nor run is left"
    (tmp_path / "run.lock").write_text("1")
    with alone(folder):  # a lock that nobody holds any more
        pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_and_a_read_only_disk_are_one_message(whole: Path, tiny_config: Path, small_disk: Path) -> None:
    folder = small_disk / "run"
    for option, message in (("size=1m", "No space left"), ("ro", "Read-only"), ("rw,size=50m", "going on from epoch")):
        subprocess.run(["mount", "-o", f"remount,{option}", small_disk], check=True)
        process = _started(tiny_config, folder, output=small_disk.parent / "output")
        process.join()
        *_, last = output = (small_disk.parent / "output").read_text().splitlines()
        assert "Traceback" not in " ".join(output)
        if process.exitcode:
            assert process.exitcode == 2 and message in last and "the same command goes on" in last
    assert process.exitcode == 0 and message in " ".join(output)
    assert _result(folder) == _result(whole)


def test_what_cannot_be_written_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    for number in range(4):
        checkpoints.save({"weights": np.full(3, number)}, {"epoch": number})
    assert [place.name for place in _saved(tmp_path)] == ["000003", "000004"]

    def full(_tensors: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunError, match="No space left on device"), checkpoint.explained(tmp_path):
        checkpoints.save({}, {})
    assert [place.name for place in (tmp_path / "checkpoint").iterdir() if place.name.startswith(".")] == []
    tensors, state = Checkpoints(tmp_path / "checkpoint").latest() or ({}, {})
    assert tensors["weights"].tolist() == [3, 3, 3] and state == {"epoch": 3}


def test_an_unfinished_run_of_other_inputs_is_cleared(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoint" / "000001").mkdir(parents=True)
    (folder / "config.yaml").touch()
    run.mark(folder, key="another", status="running")
    train(config.load("configs/tfidf.yaml", [f"corpus={tiny_corpus}", "min_count=1"]), folder, track=False)
    assert "unfinished run of other inputs" in capsys.readouterr().err
    assert not (folder / "checkpoint").exists() and run.begun(folder)["status"] == "finished"


def test_the_trackers_run_goes_on_as_well(
    store: str, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    settings, epochs, save = config.load(tiny_config, ["epochs=4"]), [], Checkpoints.save

    def stopped(checkpoints: Checkpoints, *state: Any) -> None:  # after the epoch's figures, before they are saved
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        save(checkpoints, *state)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", stopped)
        train(settings, tmp_path / "run")
    client = MlflowClient(tracking_uri=stores.uri())
    (first,) = client.search_runs([client.get_experiment_by_name(view.EXPERIMENT).experiment_id])
    assert first.info.status == "KILLED" and first.data.tags["status"] == "interrupted"

    folder = train(settings, tmp_path / "run")
    record = run.finished(folder) or {}
    write_json(folder / run.DONE, {**record, "mlflow_run_id": None})  # as if killed when all was logged
    assert train(settings, folder) == folder
    (only,) = client.search_runs([first.info.experiment_id])
    assert only.info.run_id == first.info.run_id == (run.finished(folder) or {})["mlflow_run_id"]
    assert only.info.status == "FINISHED" and only.data.tags["status"] == "completed"
    steps = [point.step for point in client.get_metric_history(only.info.run_id, "train/loss")]
    assert steps == [1, 2, 3, 4]
