"""Is A really better than B: against figures by hand, under the null, and on folders that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from training import compare, evaluate, run, significance, verdict, view
from training.__main__ import main
from training.errors import RunError
from training.files import write_json, write_json_lines
from training.significance import MACRO

LABELS = ("proposal", "rejection")
SIZE = 300  # texts, in scenarios of three


def _truth(seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((SIZE, len(LABELS))) < 0.4).astype(np.int8)


def _wrong(truth: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Decisions of which this share is wrong."""
    return truth ^ (np.random.default_rng(seed).random(truth.shape) < share).astype(np.int8)


def _write_run(folder: Path, truth: np.ndarray, decided: np.ndarray, *, name: str = "", **other: Any) -> Path:
    """A finished run's folder with as much in it as comparing needs; its thresholds are 0.9."""
    rows = [
        {
            "id": f"t{i}",
            "text": f"Text {i}.",
            "intents": [label for label, real in zip(LABELS, truth[i], strict=True) if real],
            "scenario": f"s{i // 3}",
            "probabilities": [0.95 if chosen else 0.85 for chosen in decided[i]],
        }
        for i in range(len(truth))
    ]
    write_json_lines(folder / "predictions" / "test.jsonl", rows)
    write_json(folder / "calibration.json", {"temperature": 1.0, "thresholds": [0.9] * len(LABELS)})
    record = {"name": name or folder.name, "key": folder.name, "finished": "2026-01-01", "mlflow_run_id": None}
    write_json(folder / run.DONE, {**record, "labels": list(LABELS), "task": "multi_label", **other})
    return folder


def _write_seeds(folder: Path, truth: np.ndarray, decided: list[np.ndarray]) -> Path:
    members = [_write_run(folder / f"seed-{i}", truth, one).name for i, one in enumerate(decided)]
    record = {"name": folder.name, "key": "seeds", "finished": "2026-01-01", "members": members, "mlflow_run_id": None}
    write_json(folder / run.SEEDS, {**record, "labels": list(LABELS), "task": "multi_label"})
    return folder


def _compared(*folders: Path) -> significance.Comparison:
    return compare.compare([compare.read(folder, "test") for folder in folders], "test")


def test_holm_by_hand() -> None:
    # in order: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which may not fall below the one before
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.6, 0.7]) == [1.0, 1.0]


def test_a_copy_of_a_run_is_no_better(tmp_path: Path) -> None:
    truth = _truth()
    decided = _wrong(truth, 0.1, 1)
    found = _compared(_write_run(tmp_path / "a", truth, decided), _write_run(tmp_path / "b", truth, decided))
    assert [one.measure for one in found.differences] == [MACRO, *LABELS]
    for one in found.differences:
        assert (one.difference, one.low, one.high, one.p, one.real) == (0, 0, 0, 1, False)
    assert "no difference that these 300 texts can show" in verdict.words(found.differences[0], found)


def test_a_clearly_better_run_leads_and_is_said_to(tmp_path: Path) -> None:
    truth = _truth()
    worse, better = _wrong(truth, 0.25, 2), _wrong(truth, 0.05, 1)
    found = _compared(_write_run(tmp_path / "low", truth, worse), _write_run(tmp_path / "high", truth, better))
    assert [one.name for one in found.ranking] == ["high", "low"]
    assert found.ranking[0].macro_f1 == pytest.approx(f1_score(truth, better, average="macro"))
    assert found.ranking[1].f1["rejection"] == pytest.approx(f1_score(truth[:, 1], worse[:, 1]))
    groups = [f"s{i // 3}" for i in range(SIZE)]
    alone = evaluate.figures(truth, better * 1.0, (0.5, 0.5), labels=LABELS, task="multi_label", groups=groups)
    assert found.ranking[0].low == pytest.approx(alone["macro_f1_low"], abs=0.005)
    assert found.ranking[0].high == pytest.approx(alone["macro_f1_high"], abs=0.005)
    macro = found.differences[0]
    assert macro.real and 0 < macro.low < macro.difference < macro.high
    assert macro.difference == pytest.approx(found.ranking[0].macro_f1 - found.ranking[1].macro_f1)
    assert found.scenarios == 100
    said = verdict.table(found)
    assert "high is better than low on test" in said and "(Holm over 1 comparison): real." in said
    assert "(Holm over 2 comparisons)  high is better" in said and "One training only: high, low" in said


def test_seeds_are_one_contestant_by_their_mean(tmp_path: Path) -> None:
    truth = _truth()
    decided = [_wrong(truth, share, seed) for seed, share in enumerate((0.05, 0.1, 0.2))]
    folder = _write_seeds(tmp_path / "three", truth, decided)
    found = _compared(folder, _write_run(tmp_path / "one", truth, decided[0]))
    scores = [f1_score(truth, one, average="macro") for one in decided]
    three = next(one for one in found.ranking if one.name == "three")
    assert three.seeds == 3 and three.macro_f1 == pytest.approx(np.mean(scores))
    assert three.std == pytest.approx(np.std(scores, ddof=1))
    assert found.differences[0].difference == pytest.approx(scores[0] - np.mean(scores))


def test_every_pair_is_corrected_for(tmp_path: Path) -> None:
    truth = _truth()
    folders = [_write_run(tmp_path / f"r{i}", truth, _wrong(truth, 0.1 + i / 20, i)) for i in range(4)]
    found = _compared(*folders)
    macro = [one for one in found.differences if one.measure == MACRO]
    assert len(macro) == 6 and {one.comparisons for one in macro} == {6}
    assert [one.corrected for one in macro] == significance.holm([one.p for one in macro])
    assert {one.comparisons for one in found.differences if one.measure != MACRO} == {12}
    # one statement: a p-value below 5% and an interval without 0, each by itself
    assert all((one.p < 0.05) is (one.low > 0 or one.high < 0) for one in found.differences)


def test_where_there_is_no_difference_one_is_seen_in_one_of_twenty() -> None:
    """Errors of a scenario go together: by scenario the test keeps its 5%, by text it would not."""
    groups = [str(i // 15) for i in range(40 * 15)]
    seen = {"scenario": 0, "text": 0}
    for seed in range(200):
        random = np.random.default_rng(seed)
        truth = (random.random((len(groups), 2)) < 0.3).astype(np.int8)
        contestants = []
        for _ in range(2):
            share = random.beta(0.35, 2, size=(40, 2)).repeat(15, axis=0)
            contestants.append(truth ^ (random.random(truth.shape) < share).astype(np.int8))
        for name, by in (("scenario", groups), ("text", [str(i) for i in range(len(groups))])):
            counted = [significance.count(truth, [one], by) for one in contestants]
            _, _, p = significance.resample(counted, rounds=300, seed=seed).differences(0, 1)
            seen[name] += p[0] < 0.05
    assert 2 <= seen["scenario"] <= 20  # 10 expected; 99.9% of the time within
    assert seen["text"] > 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "1 ids are in one only, such as 't299'"),
        (
            lambda rows: [{**rows[0], "intents": ["other"]}, *rows[1:]],
            "for 1 ids, such as 't0'",
        ),
        (lambda rows: [{**rows[0], "text": "Other."}, *rows[1:]], "for 1 ids, such as 't0'"),
        (lambda rows: [{"id": "t0", "text": "Bare."}], "these are not predictions of labelled texts"),
    ],
)
def test_other_texts_or_truth_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    truth = _truth()
    one, other = (_write_run(tmp_path / name, truth, truth) for name in ("one", "other"))
    file = other / "predictions" / "test.jsonl"
    write_json_lines(file, change([json.loads(line) for line in file.read_text().splitlines()]))
    with pytest.raises(RunError, match=message):
        _compared(one, other)


def test_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    truth = _truth()
    one, other = (_write_run(tmp_path / name, truth, _wrong(truth, 0.1, i)) for i, name in enumerate(("a", "b")))
    before = _compared(one, other)
    file = other / "predictions" / "test.jsonl"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    assert _compared(one, other) == before


def test_other_labels_and_few_scenarios_are_refused(tmp_path: Path) -> None:
    truth = _truth()
    one = _write_run(tmp_path / "one", truth, truth)
    with pytest.raises(RunError, match="only runs of the same task"):
        _compared(one, _write_run(tmp_path / "other", truth, truth, labels=["x", "y"]))
    small = [_write_run(tmp_path / name, truth[:60], truth[:60]) for name in ("c", "d")]
    with pytest.raises(RunError, match="has 20 scenarios; expected 30 or more"):
        _compared(*small)


def test_without_scenarios_each_text_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = _truth()
    folders = [_write_run(tmp_path / name, truth, truth) for name in ("one", "other")]
    for folder in folders:
        file = folder / "predictions" / "test.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        write_json_lines(file, [{key: row[key] for key in row if key != "scenario"} for row in rows])
    assert _compared(*folders).scenarios == SIZE and "each is taken by itself" in capsys.readouterr().err
    assert _compared(folders[0], _write_run(folders[1], truth, truth)).scenarios == SIZE // 3
    assert not capsys.readouterr().err


def test_all_leaves_out_what_cannot_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    truth = _truth()
    for name, seed in (("a", 1), ("b", 2)):
        _write_run(Path("runs") / name, truth, _wrong(truth, 0.1, seed), name="same")
    _write_run(Path("runs/copy"), truth, _wrong(truth, 0.1, 1), name="same", key="a")
    _write_run(Path("runs/elsewhere"), truth[:90], truth[:90], finished="2025-01-01")
    (_write_run(Path("runs/cut"), truth, truth) / run.DONE).unlink()
    assert main(["compare", "--all", "--no-track", "--json"]) == 0
    printed = capsys.readouterr()
    assert set(json.loads(printed.out)["runs"]) == {"b", "copy"}
    assert printed.err.count("left out") == 1 and "runs/elsewhere" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected the runs to compare"),
        (["a", "--all"], "expected the runs to compare"),
        (["a"], "two runs or more"),
        (["a", "a"], "named twice"),
        (["a", "b", "--split", "real"], "evaluate a --on FILE --prefix real"),
        (["a", "none"], "no such run folder"),
    ],
)
def test_a_users_mistake_is_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        _write_run(Path(name), _truth(), _truth())
    assert main(["compare", "--no-track", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_table_and_figure_are_in_mlflow_once(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    truth = _truth()
    for name, share in (("a", 0.05), ("b", 0.3)):
        _write_run(tmp_path / name, truth, _wrong(truth, share, 1))
    command = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(command) == main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "a is better than b" in capsys.readouterr().out
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name(view.EXPERIMENT)
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.data.tags["stage"] == "compare" and logged.data.tags["status"] == "completed"
    assert logged.info.run_name == "comparison: a, b" and not logged.data.metrics
    assert "a is better than b" in logged.data.tags["mlflow.note.content"]
    files = {f"comparison.{ending}" for ending in ("json", "csv", "md", "png")}
    assert {item.path for item in client.list_artifacts(logged.info.run_id)} == files
    assert {file.name for file in (tmp_path / "out").iterdir()} == files
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    assert main(command) == 0
    assert "the comparison was not logged" in capsys.readouterr().err
