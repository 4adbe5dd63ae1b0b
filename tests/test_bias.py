"""Country bias: a model that knows a state is caught, one that does not is cleared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from training import bias
from training.__main__ import main
from training.actors import find, gazetteer

LABELS = ("proposal", "rejection")
TEXTS = [
    "Norway rejects the plan.",
    "Norwegian envoys propose talks.",
    "Kenya rejects the plan of the Chadian army.",
    "We met in Quito.",
]


def fair(texts: Sequence[str]) -> bias.Floats:
    """Reads the verbs alone."""
    return np.array([[0.9 if "propose" in text else 0.2, 0.8 if "rejects" in text else 0.1] for text in texts])


def partial_to_norway(texts: Sequence[str]) -> bias.Floats:
    """Takes whatever names Norway for a proposal."""
    norway = [any(mention.code == "NOR" for mention in find(text)) for text in texts]
    return np.array([[0.9 if named else 0.1, 0.3] for named in norway])


def measured(
    predict: bias.Predict, texts: Sequence[str] = TEXTS, task: str = "multi_label", **more: int
) -> bias.Report:
    return bias.measure(texts, predict, (0.5, 0.5), labels=LABELS, task=task, **more)


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_a_model_that_ignores_states_is_cleared(task: str) -> None:
    report = measured(fair, task=task)
    assert report.unchanged == 1.0 and report.unchanged_by_label == dict.fromkeys(LABELS, 1.0) and not report.changes
    assert bias.figures(report) == pytest.approx(
        {
            "bias/unchanged": 1.0,
            "bias/largest_shift": 0.0,
            "bias/largest_shift_proposal": 0.0,
            "bias/largest_shift_rejection": 0.0,
        }
    )
    assert bias.table(report).count(": met") == 2


def test_a_model_partial_to_one_state_is_caught() -> None:
    report = measured(partial_to_norway)
    assert report.unchanged == 0.5, "the two texts of four that name Norway change with every swap"
    assert report.unchanged_by_label == {"proposal": 0.5, "rejection": 1.0}
    change = report.changes[0]
    assert (change.text, change.labels, change.variant_labels) == (TEXTS[0], ("proposal",), ())
    assert change.variant.endswith(" rejects the plan.") and not change.variant.startswith("Norway")

    states = len(gazetteer())
    assert list(report.shifts) == list(gazetteer()) and states == 197
    code, label, shift = bias.ranked(report)[0]
    assert (code, label) == ("NOR", "proposal") and shift == pytest.approx(0.8 * (1 - 1 / states))
    assert report.shifts["PER"] == pytest.approx([-0.8 / states, 0.0])
    figures = bias.figures(report)
    assert figures["bias/largest_shift"] == figures["bias/largest_shift_proposal"] == pytest.approx(shift)
    assert figures["bias/largest_shift_rejection"] == pytest.approx(0.0)
    written = bias.table(report)
    assert written.count(": missed") == 2 and "+0.7959  proposal        Norway" in written


def test_every_state_is_tried_and_none_stands_twice() -> None:
    seen: list[str] = []

    def listening(texts: Sequence[str]) -> bias.Floats:
        seen.extend(texts)
        return fair(texts)

    report = measured(listening, ["Norway rejects the plan of Peru."], sample=5)
    assert report.sampled == 1 and len(seen) == 1 + bias.SWAPS + len(gazetteer())
    named = [[mention.code for mention in find(text)] for text in seen]
    assert [codes[0] for codes in named[-len(gazetteer()) :]] == list(gazetteer())
    assert all(len(set(codes)) == 2 for codes in named)
    assert "Peru rejects the plan of Norway." in seen


def test_the_sample_and_the_swaps_are_fixed() -> None:
    first, second = (measured(partial_to_norway, sample=2) for _ in range(2))
    assert first.sampled == 2 and first.changes == second.changes
    assert measured(partial_to_norway, sample=2, seed=1).changes != first.changes


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_the_command_writes_logs_and_tells(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: dict[str, float] = {}
    monkeypatch.setattr("training.tracking.log_figures", lambda folder, figures: logged.update(figures))
    before = json.loads((run_copy / "metrics.json").read_text())
    assert main(["bias", str(run_copy), "--texts", "3"]) == 0
    printed = capsys.readouterr().out
    assert "aim 99%" in printed and "aim no more than 0.02" in printed and "in each of 48 texts" in printed
    stored = json.loads((run_copy / "predictions" / "bias.json").read_text())
    assert len(stored["shifts"]) == 197 and stored["sampled"] == 3 and stored["texts"] == 48
    labels = ("proposal", "condition", "rejection", "reaction")
    assert list(stored["figures"]) == [
        "bias/unchanged", "bias/largest_shift", *(f"bias/largest_shift_{label}" for label in labels)
    ]  # fmt: skip
    assert json.loads((run_copy / "metrics.json").read_text()) == {**before, **stored["figures"]}
    assert logged == stored["figures"]
    assert "<h2>Country bias</h2>" in (run_copy / "report.html").read_text()

    assert main(["bias", str(run_copy), "--texts", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == stored


def test_a_corpus_without_states_is_one_message(
    run_copy: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(tiny_corpus, tmp_path / "stateless"))
    rows = [json.loads(line) for line in (other / "test.jsonl").read_text().splitlines()]
    (other / "test.jsonl").write_text("".join(json.dumps({**row, "text": "It rained."}) + "\n" for row in rows))
    config = run_copy / "config.yaml"
    config.write_text(config.read_text().replace(str(tiny_corpus), str(other)))
    assert main(["bias", str(run_copy)]) == 2
    assert "test.jsonl: none of its 48 texts names a state" in capsys.readouterr().err
    assert not (run_copy / "predictions" / "bias.json").exists()


@pytest.mark.parametrize("count", ["0", "-1", "few"])
def test_a_sample_of_no_texts_is_refused(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bias", "anything", "--texts", count])
    assert "expected a number from 1" in capsys.readouterr().err
