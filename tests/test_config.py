"""Configs: every shipped one is complete, and every wrong one is refused with a cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from training import config, search
from training.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "configs").glob("*.yaml"))
SWEEPS = [path for path in FILES if config.read(path)["family"] == "sweep"]
CONFIGS = [path for path in FILES if path not in SWEEPS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_complete_and_named_after_its_file(path: Path) -> None:
    settings = config.load(path)
    assert settings.name == path.stem
    written = {line.partition(":")[0] for line in path.read_text().splitlines() if ":" in line and line[0] not in "# "}
    assert written == set(type(settings).model_fields), "a config states every value: nothing is hidden in a default"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_shipped_sweep_fits_its_config_and_holds_its_values(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings = search.load(path)
    base = config.load(settings.config)
    assert set(config.read(path)) == set(type(settings).model_fields)
    assert all(span.holds(getattr(base, key)) for key, span in settings.search.items()), "the config is tried first"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_dumped_config_reads_back_equal(path: Path, tmp_path: Path) -> None:
    settings = config.load(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(config.dump(settings))
    assert config.load(copy) == settings


def test_every_field_is_documented() -> None:
    sweep = (search.SweepConfig, search.Span, search.Choices, search.Pruning)
    for kind in (config.BaselineConfig, config.FrozenConfig, config.EncoderConfig, *sweep):
        silent = {name for name, field in kind.model_fields.items() if not field.description} - {"family"}
        assert not silent


def test_overrides_are_yaml_1_2() -> None:
    settings = config.load(ROOT / "configs/minilm.yaml", ["learning_rate=3e-5", "name=no", "seed=7"])
    assert isinstance(settings, config.EncoderConfig)
    assert (settings.learning_rate, settings.name, settings.seed) == (3e-5, "no", 7)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1e-4", "unknown key learning_rat, did you mean learning_rate?"),
        ("epochs=many", "epochs: .*integer.*found 'many'"),
        ("epochs=2.5", "epochs"),
        ("epochs=0", "epochs: .*greater than or equal to 1"),
        ("swap_actors=1.5", "swap_actors: .*less than or equal to 1"),
        ("seed=true", "seed: .*integer"),
        ("family=frosted", "family must be one of baseline, frozen, encoder, found 'frosted'"),
        ("schedule=square", "schedule: .*'linear' or 'cosine'"),
        ("learning_rate", "expected key=value"),
        ("name=../x", "name"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_explained(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(ROOT / "configs/minilm.yaml", [override])


def test_all_problems_come_in_one_message() -> None:
    with pytest.raises(ConfigError, match=r"epochs.*seed.*colour|colour.*epochs.*seed|epochs.*colour.*seed") as caught:
        config.load(ROOT / "configs/minilm.yaml", ["epochs=0", "seed=-1", "colour=red"])
    assert "configs/minilm.yaml" in str(caught.value)


def test_a_duplicate_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text((ROOT / "configs/tfidf.yaml").read_text() + "\nseed: 2\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml.*duplicate key"):
        config.load(file)


def test_a_missing_file_names_a_near_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean .*minilm\.yaml"):
        config.load(ROOT / "configs/minilmm.yaml")


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just words\n"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match="expected 'key: value' lines"):
        config.load(file)
