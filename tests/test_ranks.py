"""Several processes fit as one does, and the first alone speaks and writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training import config, ranks, run
from training.files import sha256
from training.train import train

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ["epochs=8", "batch_size=15", "learning_rate=4e-3", "swap_actors=0.5", "ema=0.5"]  # 15: the halves are uneven
DROPOUT = [*RECIPE, "epochs=2", "dropout=0.1"]
DEADLY = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
from training import checkpoint
from training.__main__ import main

save, saves = checkpoint.Checkpoints.save, []

def counted(self, *state):
    save(self, *state)
    saves.append(self._folder)
    if saves.count(self._folder) == 20 and self._folder:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.EVERY, checkpoint.SHARE, checkpoint.Checkpoints.save = 0.0, 1e9, counted
sys.exit(main())
"""

gloo = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no Gloo")


def _torchrun(*command: str | Path) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launch, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )


def _arguments(file: Path, folder: Path, recipe: list[str]) -> list[str | Path]:
    return ["train", file, "--output", folder, "--no-track", *(part for one in recipe for part in ("--set", one))]


def _history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@gloo
def test_two_processes_fit_as_one(tiny_config: Path, tmp_path: Path) -> None:
    one = train(config.load(tiny_config, RECIPE), tmp_path / "one", track=False)
    two = tmp_path / "two"
    done = _torchrun("-m", "training", *_arguments(tiny_config, two, RECIPE))
    assert done.returncode == 0, done.stderr
    assert _names(two) == _names(one) and run.begun(two)["status"] == "finished"
    for text in ("config (", "corpus tiny", "epoch   1 ", "run folder"):
        assert done.stdout.count(text) == 1, "one process speaks"
    figures, expected = _history(two), _history(one)
    assert len(figures) == len(expected) and expected[-1]["val/macro_f1"] > 0.5
    for found, wanted in zip(figures, expected, strict=True):
        assert {**found, "time": 0} == pytest.approx({**wanted, "time": 0}, abs=1e-3)
    assert json.loads((two / "environment.json").read_text())["processes"] == 2


@gloo
def test_two_processes_that_were_killed_go_on_with_the_same_bytes(tiny_config: Path, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        script, arguments = tmp_path / "deadly.py", _arguments(tiny_config, tmp_path / name, DROPOUT)
        if name == "killed":
            script.write_text(DEADLY)
            done = _torchrun(script, *arguments)
            assert done.returncode != 0 and "Signal 9 (SIGKILL)" in done.stderr
            assert run.finished(tmp_path / name) is None
        done = _torchrun("-m", "training", *arguments)
        assert done.returncode == 0, done.stderr
    assert "going on from epoch 2, update 19 of 32" in done.stdout
    whole, killed = (sha256(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed"))
    assert whole == killed


@gloo
def test_an_error_of_the_first_ends_all(tiny_corpus: Path, tmp_path: Path) -> None:
    done = _torchrun(
        "-m", "training", *_arguments(Path("configs/tfidf.yaml"), tmp_path / "run", [f"corpus={tiny_corpus}"])
    )
    assert done.returncode != 0 and not (tmp_path / "run").exists()
    assert (
        done.stderr.count("training: tfidf: family baseline trains in one process, found 2; leave torchrun out.") == 1
    )


@pytest.mark.parametrize("texts", [1, 4, 7])
def test_the_parts_weigh_as_the_batch_does(texts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, places = torch.rand(texts, generator=torch.manual_seed(1)), list(range(texts))
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts = []
    for number in range(3):
        monkeypatch.setenv("RANK", str(number))
        parts.append(ranks.part(places))
    mean = sum(weight * losses[mine].mean() for mine, weight in parts) / 3
    assert mean.item() == pytest.approx(losses.mean().item())
    assert sorted(place for mine, weight in parts if weight for place in mine) == places


@pytest.mark.parametrize("count", ["1", "2"])
def test_one_of_several_processes_leaves_with_its_status_and_all_that_it_said(count: str) -> None:
    code = """
import atexit
from training import ranks

atexit.register(print, "bye")
print("done", end="")
ranks.leave(3)
"""
    environment = {**os.environ, "WORLD_SIZE": count}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "donebye\n" if count == "1" else "done")
