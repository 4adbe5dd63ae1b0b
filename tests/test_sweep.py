"""Sweeps: shared, resumed, stopped, refused; chosen on validation alone; the winner is a config that trains."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from training import baseline, config, corpus, encoder, search, study, view
from training import store as stores
from training.__main__ import main
from training.errors import ConfigError, DivergedError, EncoderError, SweepError
from training.sweep import sweep
from training.train import train

ROOT = Path(__file__).resolve().parent.parent
SEARCH = """
  min_count: {choices: [1, 100]}
  inverse_regularisation: {low: 1e-3, high: 10.0, log: true}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(tmp_path: Path, tiny_corpus: Path) -> Callable[..., str]:
    """Writes the config of a sweep over a small baseline, with other values where they are given."""

    def written(**values: str) -> str:
        base = (
            f"name: base\nfamily: baseline\ncorpus: {tiny_corpus}\nseed: 1\n"
            "word_ngrams: 1\nchar_ngrams: 0\nmin_count: 1\ninverse_regularisation: 20.0\n"
        )
        (tmp_path / "base.yaml").write_text(base)
        lines = {
            "name": "small", "family": "sweep", "config": "base.yaml", "objective": "val/macro_f1", "trials": "4",
            "seed": "1", "storage": "null", "pruning": "null", "search": SEARCH, **values,
        }  # fmt: skip
        file = tmp_path / "sweep.yaml"
        file.write_text("".join(f"{key}: {value}\n" for key, value in lines.items() if value))
        return file.name

    return written


def _with_study(use: Callable[[optuna.Study], Any], name: str = "small") -> Any:
    storage = optuna.storages.RDBStorage(f"sqlite:///runs/sweeps/{name}/study.sqlite")
    try:
        return use(optuna.load_study(study_name=name, storage=storage))
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _trials(name: str = "small") -> list[optuna.trial.FrozenTrial]:
    return list(_with_study(lambda opened: opened.trials, name))


def _states(name: str = "small") -> list[str]:
    return [trial.state.name for trial in _trials(name)]


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, *places: int) -> None:
    """Lets the trainings at these places, counted from 0, end with `error`."""
    fit, done = baseline.fit, []

    def failing(*arguments: Any) -> Any:
        done.append(None)
        if len(done) - 1 in places:
            raise error
        return fit(*arguments)

    monkeypatch.setattr(baseline, "fit", failing)


class Sealed(corpus.Split):
    """A split that nobody may look at."""

    @property
    def texts(self) -> list[str]:
        raise AssertionError("the test split was read")

    groups = texts  # type: ignore[assignment]


def test_the_winner_trains_to_the_figure_that_it_won_with(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = corpus.load
    with monkeypatch.context() as patch:
        seal = lambda split: Sealed(split.name, split.rows, split.truth)  # noqa: E731
        patch.setattr(corpus, "load", lambda folder: replace(load(folder), test=seal(load(folder).test)))
        best = sweep(write(), track=False)
    trials = sorted(Path("runs/sweeps/small").glob("trial-*"))
    records = [json.loads((folder / "trial.json").read_text()) for folder in trials]
    assert [record["state"] for record in records] == ["finished"] * 4
    names = {file.name for folder in trials for file in folder.rglob("*")}
    assert names == {"config.yaml", "environment.json", "metrics.json", "trial.json"}, "no weights are kept"
    highest = max(record["value"] for record in records)
    assert f"val/macro_f1 {highest:.4f}" in best.read_text() and "4 finished" in capsys.readouterr().out
    assert {"trials.png"} == {file.name for file in Path("runs/sweeps/small/figures").iterdir()}
    folder = train(config.load(best), Path("run"), track=False)
    assert json.loads((folder / "metrics.json").read_text())["val/macro_f1"] == highest


def test_a_base_inside_the_search_is_tried_first(write: Callable[..., str]) -> None:
    sweep(write(trials="2", search="\n  word_ngrams: {low: 1, high: 3}\n  char_ngrams: {choices: [0, 3]}"), track=False)
    assert _trials()[0].params == {"word_ngrams": 1, "char_ngrams": 0}


def test_a_sweep_that_goes_on_proposes_what_an_unbroken_one_would(
    write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(trials="11")
    assert main(["sweep", path, "--trials", "3", "--no-track"]) == 0
    sweep(path, track=False)
    sweep(write(name="unbroken", trials="11"), track=False)
    path = write(trials="11")
    broken, unbroken = ([trial.params for trial in _trials(name)] for name in ("small", "unbroken"))
    assert broken == unbroken and len(broken) == 11
    assert len({trial["inverse_regularisation"] for trial in broken}) == 11, "no trial repeats another"
    capsys.readouterr()
    sweep(path, track=False)
    assert len(_trials()) == 11 and "11 finished" in capsys.readouterr().out
    assert Path("runs/sweeps/small/figures/importances.png").exists()


def test_stopped_by_the_person(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write()
    with monkeypatch.context() as patch:
        _failing(patch, KeyboardInterrupt(), 2)
        assert main(["sweep", path, "--no-track"]) == 130
    printed = capsys.readouterr()
    assert "stopped: 2 of 4 trials done and kept; go on with: python -m training sweep sweep.yaml" in printed.out
    assert "Traceback" not in printed.err and Path("runs/sweeps/small/best.yaml").exists()
    assert _states() == ["COMPLETE", "COMPLETE", "FAIL"]
    sweep(path, track=False)
    assert _states() == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


def test_a_trial_killed_with_its_process_is_tried_again(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(trials="3")
    script = f"""
import os, signal, sys, time
from training import baseline, study
from training.sweep import sweep
fit, done = baseline.fit, []
def killed(*arguments):
    done.append(None)
    if len(done) == 2:
        time.sleep(1)  # the heart beats in a thread of its own
        os.kill(os.getpid(), signal.SIGKILL)
    return fit(*arguments)
baseline.fit = killed
sweep({path!r}, track=False)
"""
    done = subprocess.run([sys.executable, "-c", script], env=_environment(), capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert _states() == ["COMPLETE", "RUNNING"]
    monkeypatch.setattr(study, "HEARTBEAT", 1)
    monkeypatch.setattr(study, "GRACE", 1)
    time.sleep(2.5)
    sweep(path, track=False)
    trials = _trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].params == trials[1].params


def test_two_processes_share_a_study(write: Callable[..., str]) -> None:
    path = write(trials="10")
    command = [sys.executable, "-m", "training", "sweep", path, "--no-track"]
    start = {"env": _environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **start) for _ in range(2)]  # type: ignore[call-overload]
    printed = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    trials = _trials()
    assert len(trials) in (10, 11) and {trial.state.name for trial in trials} == {"COMPLETE"}
    assert len({trial.params["inverse_regularisation"] for trial in trials}) == len(trials), "each tries its own"
    assert sum(out.count("\ntrial ") for out, _ in printed) - 2 == len(trials), "each trial was one process' own"
    assert len(list(Path("runs/sweeps/small").glob("trial-*/trial.json"))) == len(trials)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_hopeless_trial_of_an_encoder_is_pruned(write: Callable[..., str], tiny_config: Path) -> None:
    base = config.dump(config.load(tiny_config, ["epochs=4"]))
    path = write(
        config="encoder.yaml", objective="val/macro_ap", trials="3", pruning="{startup_trials: 1, warmup_epochs: 2}",
        search="\n  learning_rate: {choices: [2e-3, 1e-9]}\n  weight_decay: {low: 0.0, high: 0.1}",
    )  # fmt: skip
    Path("encoder.yaml").write_text(base)
    best = sweep(path, track=False)
    trials = {trial.params["learning_rate"]: trial for trial in _trials()}
    assert config.load(best).learning_rate == 2e-3
    assert trials[1e-9].state.name == "PRUNED" and trials[1e-9].last_step == 3
    folder = Path("runs/sweeps/small") / f"trial-{trials[1e-9].number}"
    assert len((folder / "history.jsonl").read_text().splitlines()) == 3 and not (folder / "metrics.json").exists()


def test_a_trial_without_a_figure_fails_and_the_sweep_goes_on(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logits, done = baseline.Baseline.logits, []

    def without(self: baseline.Baseline, texts: list[str]) -> Any:
        done.append(None)
        return logits(self, texts) * (np.nan if len(done) == 4 else 1)  # a trial asks three times

    monkeypatch.setattr(baseline.Baseline, "logits", without)
    sweep(write(), track=False)
    assert _states() == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert "trial 1: failed: the training diverged" in capsys.readouterr().out
    assert json.loads(Path("runs/sweeps/small/trial-1/trial.json").read_text())["value"] is None


def test_a_process_taken_for_dead_goes_on(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit, done = baseline.fit, []

    def slept(*arguments: Any) -> Any:
        done.append(None)
        if len(done) == 2:
            _with_study(lambda opened: opened.tell(1, state=optuna.trial.TrialState.FAIL))
        return fit(*arguments)

    monkeypatch.setattr(baseline, "fit", slept)
    sweep(write(trials="2"), track=False)
    assert _states() == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "its trial was given up" in capsys.readouterr().err


def test_only_failures_end_a_sweep(write: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, MemoryError("16 GiB asked for"), *range(9))
    with pytest.raises(SweepError, match=r"3 trials in a row failed, the last because: 16 GiB asked for"):
        sweep(write(), track=False)
    assert _states() == ["FAIL"] * 3


@pytest.mark.parametrize("error", [EncoderError("no such encoder"), ConfigError("these two exclude each other")])
def test_what_a_person_must_mend_ends_a_sweep(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    _failing(monkeypatch, error, 1)
    assert main(["sweep", write(), "--no-track"]) == 2
    printed = capsys.readouterr()
    assert str(error) in printed.err and "Traceback" not in printed.err
    assert _states() == ["COMPLETE", "FAIL"]


def test_a_training_that_diverges_says_so(
    tiny_config: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = encoder._predict
    monkeypatch.setattr(encoder, "_predict", lambda *arguments: predict(*arguments) * np.nan)
    with pytest.raises(DivergedError, match="lower learning_rate"):
        encoder.fit(config.load(tiny_config, ["epochs=1"]), corpus.load(tiny_corpus), lambda *_: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("base", "values", "message"),
    [
        ("word_ngrams: 2", {}, "made with another base config,"),
        ("", {"search": "{min_count: {choices: [1, 2]}}", "objective": "val/macro_ap"}, "another search and objective"),
        ("corpus: other", {}, "made with another corpus,"),
    ],
)
def test_a_study_of_something_else_is_refused(
    write: Callable[..., str], base: str, values: dict[str, str], message: str
) -> None:
    from conftest import write_corpus

    sweep(write(trials="1"), track=False)
    path = write(**values)
    write_corpus(Path("other"), (20, 8, 8))
    lines = [line for line in Path("base.yaml").read_text().splitlines() if line.split(":")[0] != base.split(":")[0]]
    Path("base.yaml").write_text("\n".join([*lines, base]) + "\n")
    with pytest.raises(SweepError, match=message):
        sweep(path, track=False)
    assert len(_trials()) == 1


def test_a_password_is_never_shown(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, url = "hun/ter2", "postgresql+nodriver://ada:hun/ter2@db/x?pwd=hun/ter2"
    assert main(["sweep", write(storage=url), "--no-track"]) == 2
    printed = capsys.readouterr()
    assert "postgresql+nodriver://ada:***@db/x: " in printed.err and "Traceback" not in printed.err
    storage = study._storage
    monkeypatch.setattr(study, "_storage", lambda _: storage("sqlite:///shared.db"))
    sweep(write(storage=url, trials="1"), track=False)
    again = capsys.readouterr()
    files = [file.read_bytes() for file in Path("runs").rglob("*") if file.is_file()]
    assert secret not in printed.err + printed.out + again.err + again.out
    assert len(files) > 5 and not [content for content in files if secret.encode() in content]
    with pytest.raises(ConfigError, match="storage: ") as caught:
        search.load(write(storage="[postgresql://ada:hunter2@db/x]"))
    assert "hunter2" not in str(caught.value)
    assert search.masked_text(f"{url} {secret}", url) == "postgresql+nodriver://ada:***@db/x ***"


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"trials": "0", "seed": ""}, ["trials: .*greater than or equal to 1", "seed is missing"]),
        ({"trails": "3"}, ["unknown key trails, did you mean trials"]),
        ({"config": "bass.yaml"}, ["bass.yaml: no such config; did you mean base.yaml"]),
        ({"config": "sweep.yaml"}, ["is a sweep over another config; run it with"]),
        ({"storage": "somewhere"}, ["storage: expected null or a URL"]),
        (
            {"pruning": "{startup_trails: 2}"},
            ["pruning.startup_trails, did you mean startup_trials", "epochs is missing"],
        ),
    ],
)
def test_all_that_is_wrong_is_told_at_once(
    write: Callable[..., str], values: dict[str, str], messages: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        search.load(write(**values))
    for message in messages:
        assert re.search(message, str(caught.value)), str(caught.value)


def test_a_search_fits_the_config_that_it_is_over(write: Callable[..., str]) -> None:
    wrong = {
        "min_cout: {low: 1, high: 2}": "unknown key search.min_cout, did you mean min_count",
        "seed: {choices: [1, 2]}": "search.seed: is not searched",
        "char_ngrams: {low: 0, high: 9}": "search.char_ngrams: .*less than or equal to 8, found 9",
        "min_count: {low: 1.5, high: 3}": "search.min_count: .*integer.*1.5",
        "word_ngrams: {low: 2, high: 2}": "search.word_ngrams: low must be below high",
        "inverse_regularisation: {low: 0, high: 1, log: true}": "inverse_regularisation: log needs a low above 0",
    }
    also = {
        "min_count: 3": "search.min_count: expected low and high, or choices, found 3",
        "word_ngrams: {low: 1, high: 4, step: 2}": "word_ngrams: steps from low must meet high",
        "char_ngrams: {choices: [1, 1]}": "char_ngrams: the choices must differ",
        "inverse_regularisation: {low: 1, hihg: 3}": "inverse_regularisation.hihg, did you mean high",
    }
    for problems in (wrong, also):
        with pytest.raises(ConfigError) as caught:
            search.load(write(search="{" + ", ".join(problems) + "}"))
        assert [message for message in problems.values() if not re.search(message, str(caught.value))] == []


def test_words_are_searched_by_choices(write: Callable[..., str], tiny_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.schedule: is no number, so expected choices"):
        search.load(write(config=str(tiny_config), search="{schedule: {low: 1, high: 2}}"))


def test_a_sweep_is_no_config_to_train(write: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match=r"python -m training sweep sweep\.yaml"):
        config.load(write())


def _logged(stage: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=stores.uri())
    experiment = client.get_experiment_by_name(view.EXPERIMENT).experiment_id
    return list(client.search_runs([experiment], f"tags.stage = '{stage}'", order_by=["start_time ASC"]))


def test_trials_are_logged_under_their_sweep(
    write: Callable[..., str], store: str, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "config": "encoder.yaml", "pruning": "{startup_trials: 1, warmup_epochs: 0}", "objective": "val/macro_ap",
        "search": "\n  learning_rate: {choices: [2e-3, 1e-9]}\n  schedule: {choices: [linear, cosine]}",
    }  # fmt: skip
    path = write(trials="1", **values)
    Path("encoder.yaml").write_text(config.dump(config.load(tiny_config, ["epochs=2"])))
    sweep(path)
    path = write(trials="4", **values)
    sweep(path)
    (parent,), trials = _logged("sweep"), _logged("trial")
    states = {"COMPLETE": "completed", "PRUNED": "pruned"}
    assert [one.data.tags["status"] for one in trials] == [states[state] for state in _states()]
    assert "pruned" in {one.data.tags["status"] for one in trials}
    assert {one.data.tags["mlflow.parentRunId"] for one in trials} == {parent.info.run_id}
    assert [one.data.params for one in trials] == [
        {key: str(value) for key, value in trial.params.items()} for trial in _trials()
    ]
    best = max(one.data.metrics["val/macro_ap"] for one in trials if one.data.tags["status"] == "completed")
    assert (parent.data.tags["status"], parent.data.metrics["val/macro_ap"]) == ("completed", best)
    assert "learning_rate" not in parent.data.params and parent.data.params["epochs"] == "2"
    assert {item.dataset.name.rpartition("-")[2] for item in parent.inputs.dataset_inputs} == {"train", "validation"}
    assert not [name for one in trials for name in one.data.metrics if name.startswith("test/")]


def test_a_dead_tracker_costs_no_trial_and_all_is_logged_later(
    write: Callable[..., str], store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
        sweep(write(trials="2"))
        assert "python -m training log runs/sweeps/small" in capsys.readouterr().err
    assert _states() == ["COMPLETE"] * 2
    assert main(["log", "runs/sweeps/small"]) == main(["log", "runs/sweeps/small"]) == 0
    assert (len(_logged("sweep")), len(_logged("trial"))) == (1, 2)
