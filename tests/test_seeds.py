"""Several seeds of one config: runs of their own, a summary beside them, a parent in MLflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from training import baseline, compare, config, nested, run, seeds, view
from training import store as stores
from training import train as single
from training.__main__ import main
from training.errors import RunError
from training.files import write_json


def _settings(corpus: Path, numbers: range, *overrides: str) -> list[Any]:
    start = [f"corpus={corpus}", "min_count=1", *overrides]
    return [config.load("configs/tfidf.yaml", [*start, f"seed={number}"]) for number in numbers]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("seeds") / "tfidf"
    return seeds.train(_settings(tiny_corpus, range(1, 4)), folder, track=False)


@pytest.fixture
def three(trained: Path, tmp_path: Path) -> Path:
    """Three seeds with macro-F1 0.5, 0.7 and 0.6 on test and on validation."""
    folder = Path(shutil.copytree(trained, tmp_path / "three"))
    for member, value in zip(run.members(folder), (0.5, 0.7, 0.6), strict=True):
        figures = json.loads((member / "metrics.json").read_text())
        write_json(member / "metrics.json", {**figures, "test/macro_f1": value, "val/macro_f1": value})
    seeds.summarise(folder)
    return folder


def _client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=stores.uri())


def _logged() -> list[Any]:
    client = _client()
    return list(client.search_runs([client.get_experiment_by_name(view.EXPERIMENT).experiment_id]))


def test_the_spread_by_hand() -> None:
    # Student's t of 2 degrees of freedom is 4.3027 at 97.5%; times 1 / sqrt(3)
    found = seeds.spread([1.0, 2.0, 3.0])
    assert found == pytest.approx({"mean": 2, "std": 1, "low": 2 - 2.48414, "high": 2 + 2.48414}, abs=1e-4)


def test_every_seed_is_a_run_and_the_summary_stands_beside_them(trained: Path, three: Path) -> None:
    assert [member.name for member in run.members(trained)] == ["seed-1", "seed-2", "seed-3"]
    assert [config.load(member / "config.yaml").seed for member in run.members(trained)] == [1, 2, 3]
    record = run.record(three) or {}
    assert record["figures"]["test/macro_f1"]["mean"] == pytest.approx(0.6)
    flat = json.loads((three / "metrics.json").read_text())
    assert (flat["test/macro_f1"], flat["test/macro_f1_std"]) == pytest.approx((0.6, 0.1))
    assert "test/macro_f1_low" in flat and "test/macro_f1_low_std" not in flat
    assert "0.600 ± 0.100" in seeds.table(three, "test")


def test_a_training_that_crashed_goes_on_with_the_missing_seeds(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, settings = tmp_path / "out", _settings(tiny_corpus, range(1, 4))
    fitted: list[int] = []
    fit = baseline.fit

    def failing(one: Any, *rest: Any) -> Any:
        fitted.append(one.seed)
        if fitted == [1, 2]:
            raise MemoryError("the machine went down")
        return fit(one, *rest)

    monkeypatch.setattr(baseline, "fit", failing)
    with pytest.raises(MemoryError):
        seeds.train(settings, folder, track=False)
    with pytest.raises(RunError, match="not a finished run"):
        run.find(str(folder))
    with pytest.raises(RunError, match="is not a run"):  # one run alone would have to clear it
        single.train(settings[0], folder, track=False)
    seeds.train(settings, folder, track=False)
    assert fitted == [1, 2, 2, 3] and len(run.members(folder)) == 3
    seeds.train(settings[:2], folder, track=False)
    assert fitted == [1, 2, 2, 3] and len(run.members(folder)) == 3, "seeds trained before stay members"
    assert "reused" in capsys.readouterr().out


def test_what_stands_in_the_way_is_kept(tiny_corpus: Path, tmp_path: Path) -> None:
    folder, settings = tmp_path / "out", _settings(tiny_corpus, range(1, 3))
    single.train(settings[0], folder, track=False)
    seeds.train(settings, folder, track=False)
    seeds.train(_settings(tiny_corpus, range(1, 3), "char_ngrams=0"), folder, track=False)
    single.train(settings[0], folder, track=False)
    kept = [(run.record(child) or {}) for child in tmp_path.iterdir() if child != folder]
    assert run.finished(folder) and sorted(len(one.get("members", [])) for one in kept) == [0, 2, 2]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years of work")
    with pytest.raises(RunError, match="is not a run"):
        seeds.train(settings, tmp_path / "mine", track=False)


def test_one_run_is_found_by_validation_and_said(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.find(str(three)) == three
    assert run.find_one(str(three)) == three / "seed-2"
    assert "seed-2 is taken, best on validation (0.700)" in capsys.readouterr().err
    assert run.find_one(str(three / "seed-1")) == three / "seed-1"
    assert main(["export", str(three)]) == 2
    assert f"{three / 'seed-2'}: family baseline has no ONNX form" in capsys.readouterr().err
    shutil.rmtree(three / "seed-3")
    with pytest.raises(RunError, match="seed-3 is not a finished run"):
        run.members(three)


def test_the_newest_of_a_name_may_be_seeds(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "RUNS", three.parent)
    assert run.find("tfidf") == three


def test_every_seed_is_evaluated(three: Path, tiny_corpus: Path, tmp_path: Path, capsys: Any) -> None:
    outside = tmp_path / "outside.jsonl"
    outside.write_text((tiny_corpus / "test.jsonl").read_text())
    assert main(["evaluate", str(three), "--on", str(outside), "--prefix", "real"]) == 0
    assert "over 3 seeds of tfidf" in capsys.readouterr().out
    assert all((member / "predictions" / "real.jsonl").exists() for member in run.members(three))
    assert main(["evaluate", str(three), "--on", str(outside), "--prefix", "real", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures["real/macro_f1"]) == {"mean", "std", "low", "high"}
    assert (run.record(three) or {})["figures"]["real/macro_f1"] == figures["real/macro_f1"]
    assert compare.read(three, "real").name == "tfidf"
    assert main(["evaluate", str(three), "--on", str(outside), "--prefix", "test"]) == 2
    assert "Choose another with --prefix" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "expected 2 or more"),
        (["--seeds", "3", "--set", "seed=4294967294"], "seed: input should be less than 4294967296"),
    ],
)
def test_a_users_mistake_is_one_message(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(["train", "configs/tfidf.yaml", "--no-track", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_seeds_are_nested_in_mlflow(store: str, tiny_corpus: Path, tmp_path: Path) -> None:
    folder, settings = tmp_path / "out", _settings(tiny_corpus, range(1, 4))
    seeds.train(settings[:2], folder)
    record = run.record(folder) or {}
    parent = _client().get_run(record["mlflow_run_id"])
    assert parent.data.tags["stage"] == "seeds" and parent.data.tags["status"] == "completed"
    assert parent.data.tags["seeds"] == "1, 2" and "seed" not in parent.data.params
    assert parent.data.params["word_ngrams"] == "2" and parent.info.run_name == "tfidf out"
    assert parent.data.metrics == pytest.approx(json.loads((folder / "metrics.json").read_text()))
    assert parent.data.metrics["test/macro_f1"] == pytest.approx(record["figures"]["test/macro_f1"]["mean"])
    assert parent.data.metrics["test/macro_f1_std"] == 0.0
    children = [one for one in _logged() if one.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {(one.data.tags["stage"], one.data.params["seed"]) for one in children} == {("seed", "1"), ("seed", "2")}
    assert len(_logged()) == 3

    assert nested.log(folder) == parent.info.run_id
    seeds.train(settings, folder)
    again = _client().get_run(parent.info.run_id)
    assert len(_logged()) == 4 and again.data.tags["seeds"] == "1, 2, 3", "the parent grows with its seeds"
    assert nested.log(folder) == parent.info.run_id and len(_logged()) == 4


def test_a_dead_tracker_costs_no_seed_and_all_is_logged_later(
    store: str, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
        folder = seeds.train(_settings(tiny_corpus, range(1, 3)), tmp_path / "out")
        printed = capsys.readouterr()
        assert "Nothing is lost" in printed.err and "over 2 seeds" in printed.out
    assert main(["log", str(folder)]) == main(["log", str(folder)]) == 0
    stages = sorted(one.data.tags["stage"] for one in _logged())
    assert stages == ["seed", "seed", "seeds"]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), "KILLED"), (MemoryError("full"), "FAILED")])
def test_an_interrupted_run_is_marked(
    store: str, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(baseline, "fit", fail)
    with pytest.raises(type(error)):
        single.train(_settings(tiny_corpus, range(1, 2))[0], tmp_path / "out")
    (logged,) = _logged()
    assert logged.data.tags["status"] == "interrupted" and logged.info.status == status
