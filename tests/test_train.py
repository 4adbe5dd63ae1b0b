"""A run's folder: whole, reused, never overwritten, the same twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from training import baseline, config, corpus, encoder, evaluation, recipe, run
from training.__main__ import main
from training.errors import EncoderError, RunError
from training.files import sha256
from training.train import restore, run_key, train


def test_a_run_folder_is_whole(tiny_run: Path) -> None:
    names = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    assert {
        "config.yaml", "history.jsonl", "calibration.json", "environment.json", "metrics.json", "run.json",
        "model/config.json", "model/model.safetensors", "model/tokenizer.json",
        "predictions/validation.jsonl", "predictions/test.jsonl",
        "report.html", "analysis/test.json", "analysis/test-errors.csv", "analysis/validation.json",
        "figures/history.png",
        *(f"figures/test-{name}.png" for name in ("precision_recall", "reliability", "slices", "coverage")),
    } <= names  # fmt: skip
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))], "no pickle is kept"
    figures = json.loads((tiny_run / "metrics.json").read_text())
    assert figures["test/macro_f1"] > 0.9, "the tiny model learns its cue phrases"


def test_the_same_inputs_are_reused_and_others_are_kept(tiny_config: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    def again(*overrides: str) -> tuple[Path, float]:
        settings = config.load("configs/tfidf.yaml", [f"corpus={tiny_corpus}", "min_count=1", *overrides])
        folder = train(settings, tmp_path / "run", track=False)
        return folder, (folder / "run.json").stat().st_mtime

    folder, first = again()
    assert again() == (folder, first)
    key = json.loads((folder / "run.json").read_text())["key"]
    assert again("seed=2")[1] > first
    assert run.finished(tmp_path / f"run-{key}"), "the other run was kept under its key"


def test_the_same_seed_gives_the_same_weights(tiny_config: Path, tiny_run: Path, tmp_path: Path) -> None:
    again = train(config.load(tiny_config), tmp_path / "again", track=False)
    other = train(config.load(tiny_config, ["seed=2", "epochs=1"]), tmp_path / "other", track=False)
    weights = [sha256(folder / "model" / "model.safetensors") for folder in (tiny_run, again, other)]
    assert weights[0] == weights[1] != weights[2]


def test_a_run_cut_short_is_not_taken_for_a_whole_one(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.yaml").write_text((tiny_run / "config.yaml").read_text())
    with pytest.raises(RunError, match="not a finished run"):
        restore(tmp_path / "cut")
    with pytest.raises(RunError, match="not a finished run"):
        run.find(str(tmp_path / "cut"))


def test_a_folder_of_other_things_is_not_cleared(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(RunError, match="is not a run"):
        train(config.load(tiny_config), tmp_path, track=False)
    assert (tmp_path / "thesis.txt").exists()


def test_restored_models_answer_as_before(tiny_run: Path, tiny_corpus: Path) -> None:
    fitted, _, _ = restore(tiny_run)
    data = corpus.load(tiny_corpus)
    rows = [json.loads(line) for line in (tiny_run / "predictions/test.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == data.test.texts
    figures, name, _ = evaluation.run_on(str(tiny_run), None, None)
    stored = json.loads((tiny_run / "metrics.json").read_text())
    assert name == "test" and figures["test/macro_f1"] == stored["test/macro_f1"]
    assert fitted.logits(data.test.texts[:1]).shape == (1, 4)


def test_evaluation_on_an_outside_file(tiny_run: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.jsonl"
    outside.write_text((tiny_corpus / "test.jsonl").read_text())
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    figures, _, _ = evaluation.run_on(str(copy), outside, None)
    assert figures["outside/macro_f1"] == json.loads((tiny_run / "metrics.json").read_text())["test/macro_f1"]


def test_an_outside_file_keeps_off_the_runs_own_names(tiny_run: Path, tiny_corpus: Path) -> None:
    for prefix in (None, "val", "behaviour", "../outside"):
        with pytest.raises(RunError, match="Choose another with --prefix"):
            evaluation.run_on(str(tiny_run), tiny_corpus / "test.jsonl", prefix)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "configs/minilm.yaml", "--set", "encoder=no/such-model"],
            "encoder no/such-model: neither",
        ),
        (["train", "configs/minilm.yaml", "--set", "corpus=nowhere"], "nowhere: no such corpus folder"),
        (["train", "configs/minilm.yaml", "--set", "epoch=3"], "did you mean epochs"),
        (["train", "configs/none.yaml"], "no such config"),
        (["export", "nothing"], "no such run"),
        (["package", "nothing"], "no such folder"),
        (["corpus", "nowhere"], "no such corpus folder"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = ["--output", str(tmp_path / "run"), "--no-track"] if arguments[0] == "train" else []
    assert main([*arguments, *output]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err
    assert not (tmp_path / "run" / "run.json").exists()


def test_altered_weights_of_the_embedded_encoder_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from training import pretrained

    monkeypatch.setattr(pretrained, "EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(EncoderError, match="SHA-256"):
        pretrained.source_of(pretrained.EMBEDDED)


def test_swapped_states_train_otherwise_and_the_same_twice(tiny_config: Path, tiny_corpus: Path) -> None:
    from training import encoder

    data = corpus.load(tiny_corpus)

    def fitted(share: float) -> tuple[list[float], dict[str, bytes]]:
        losses: list[float] = []
        settings = config.load(tiny_config, [f"swap_actors={share}", "epochs=6"])
        assert isinstance(settings, config.EncoderConfig)
        model = encoder.fit(settings, data, lambda _, figures: losses.append(figures["train/loss"])).model
        return losses, {name: value.numpy().tobytes() for name, value in model.state_dict().items()}

    plain, swapped, again = fitted(0.0), fitted(1.0), fitted(1.0)
    assert swapped[0][-1] < swapped[0][0], "the cue phrases are learnt whatever the states"
    assert swapped == again
    assert swapped[1].keys() == plain[1].keys() and swapped[1] != plain[1]


def test_only_swapped_texts_are_tokenised_anew(tiny_encoder: Path) -> None:
    from transformers import AutoTokenizer

    from training.batches import replaced, tokenised
    from training.encoder import _naming_states

    texts = ["It rained.", "The minister of Oslo said: we reject the plan for Lima.", "We offer help to Accra."]
    assert _naming_states(texts) == [1, 2]
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    rows = tokenised(tokenizer, texts, 32)
    found = replaced(rows, {2: texts[0]}, tokenizer, 32)
    assert found == [rows[0], rows[1], rows[0]] and found[1] is rows[1]
    assert replaced(rows, {}, tokenizer, 32) == rows


def test_the_gazetteer_tells_runs_apart_only_where_states_are_swapped(
    tiny_config: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> list[str]:
        settings = (config.load(tiny_config, [f"swap_actors={share}"]) for share in (0.0, 0.5))
        return [run_key(one, corpus.load(tiny_corpus)) for one in settings]

    before = keys()
    (tmp_path / "actors.csv").write_text("other states")
    monkeypatch.setattr("training.actors.GAZETTEER", tmp_path / "actors.csv")
    assert [a == b for a, b in zip(before, keys(), strict=True)] == [True, False]


def test_batches_hold_every_text_once_and_pad_little() -> None:
    import numpy as np

    from training.batches import batches

    lengths = np.random.default_rng(0).integers(5, 100, 1000).tolist()
    found = list(batches(lengths, 16, np.random.default_rng(1)))
    assert sorted(place for batch in found for place in batch) == list(range(1000))
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in found)
    assert padded < 1.1 * sum(lengths)


@pytest.mark.parametrize("family", ["encoder", "baseline"])
def test_a_shift_reaches_the_weights(family: str, tiny_run: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    run = tiny_run
    if family == "baseline":
        overrides = [f"corpus={tiny_corpus}", "min_count=1"]
        run = train(config.load("configs/tfidf.yaml", overrides), tmp_path / "run", track=False)
    fitted, _, _ = restore(run)
    texts, amounts = ["We offer talks.", "He left."], [0.5, -1.0]
    labels = fitted.logits(texts).shape[1]
    before = fitted.logits(texts)
    fitted.shift((amounts * labels)[:labels])
    fitted.save(tmp_path / "shifted")
    load = encoder.load if family == "encoder" else baseline.load
    after = load(tmp_path / "shifted").logits(texts)
    assert after - before == pytest.approx(np.tile((amounts * labels)[:labels], (2, 1)), abs=1e-5)


def test_a_compiled_training_is_the_same_but_for_rounding(
    tiny_config: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from training import encoder

    compiled, compile_ = [], torch.nn.Module.compile
    # traced, but not turned into machine code, which takes a minute
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: compiled.append(how) or compile_(self, backend="eager", **how)
    )
    data, losses = corpus.load(tiny_corpus), dict[str, list[float]]()
    for how in ("false", "true"):
        settings = config.load(tiny_config, ["epochs=2", f"compile={how}"])
        found = losses.setdefault(how, [])
        fitted = encoder.fit(settings, data, lambda _, figures, found=found: found.append(figures["train/loss"]))
        assert not any("_orig_mod" in name for name in fitted.model.state_dict())
    assert compiled == [{"dynamic": True}] and losses["true"] == pytest.approx(losses["false"], rel=1e-4)


def test_the_asymmetric_loss_is_twice_cross_entropy_without_its_asymmetry(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = torch.randn(8, 3, generator=torch.manual_seed(1)) * 3, torch.zeros(8, 3)
    targets[::2, 1] = 1
    plain = recipe.cross_entropy(logits, targets, "multi_label")
    assert recipe.asymmetric(logits, targets, "multi_label") < 2 * plain
    monkeypatch.setattr(recipe, "ASYMMETRIC_FOCUS", (0.0, 0.0))
    monkeypatch.setattr(recipe, "ASYMMETRIC_MARGIN", 0.0)
    assert recipe.asymmetric(logits, targets, "multi_label").item() == pytest.approx(2 * plain.item(), rel=1e-5)


def test_the_asymmetric_loss_stays_finite() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = recipe.asymmetric(logits, torch.tensor([[0.0, 1.0]]), "multi_label")
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
