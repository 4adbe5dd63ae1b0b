"""What a sweep is: its config file, strict like every other, and the values it may try. `training.sweep` runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from training import config
from training.errors import ConfigError

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
_CLOSE = 1e-9  # of steps: 0.3 / 0.1 is not quite 3
_WHY_NOT = {
    "name": "it names the run",
    "family": "a sweep stays in one family",
    "corpus": "figures on different texts cannot be compared",
    "seed": "the best of several seeds is luck, and `train --seeds` measures their spread",
}

Number = int | float


class Span(BaseModel):
    """A number from `low` to `high`, both included."""

    model_config = _STRICT

    low: Number = Field(description="smallest value")
    high: Number = Field(description="largest value")
    log: bool = Field(default=False, description="drawn evenly over the orders of magnitude, as befits learning rates")
    step: Number | None = Field(default=None, gt=0, description="only low, low + step, low + 2 step … high")

    @model_validator(mode="after")
    def _makes_sense(self) -> Span:
        if self.low >= self.high:
            raise _wrong("low must be below high")
        if self.log and self.low <= 0:
            raise _wrong("log needs a low above 0")
        if self.log and self.step:
            raise _wrong("log and step exclude each other")
        if not self.holds(self.high):
            raise _wrong("steps from low must meet high")
        return self

    def holds(self, value: Any) -> bool:
        """Whether a number is one of the values."""
        steps = (value - self.low) / self.step if self.step else 0
        return bool(self.low <= value <= self.high and abs(steps - round(steps)) < _CLOSE)


class Choices(BaseModel):
    """One of several values without an order."""

    model_config = _STRICT

    choices: list[bool | int | float | str] = Field(min_length=2, description="the values")

    @model_validator(mode="after")
    def _differ(self) -> Choices:
        if len({(type(choice), choice) for choice in self.choices}) < len(self.choices):
            raise _wrong("the choices must differ")
        return self

    def holds(self, value: Any) -> bool:
        """Whether a value is one of the choices."""
        return value in self.choices


def _kind(value: Any) -> str | None:
    """Which of the two a value is: read from a file, or made already and to be written."""
    if isinstance(value, dict):
        return "choices" if "choices" in value else "span"
    if isinstance(value, Span):
        return "span"
    return "choices" if isinstance(value, Choices) else None


Range = Span | Choices
_Range = Annotated[
    Annotated[Span, Tag("span")] | Annotated[Choices, Tag("choices")],
    Discriminator(_kind, custom_error_type="range", custom_error_message="expected low and high, or choices"),
]
_RANGE: TypeAdapter[Range] = TypeAdapter(_Range)


class Pruning(BaseModel):
    """When a trial is given up: its best epoch so far is below the median of the finished trials at that epoch."""

    model_config = _STRICT

    startup_trials: int = Field(ge=1, description="so many trials finish before any is given up")
    warmup_epochs: int = Field(ge=0, description="so many epochs pass before a trial is given up")


class SweepConfig(BaseModel):
    """A search for better values of some keys of another config."""

    model_config = _STRICT

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="names the study and its folder in runs/sweeps/")
    family: Literal["sweep"] = Field(description="sweep: tells this file from a model's config")
    config: str = Field(description="the config to improve; what is not searched stays as it says")
    objective: Literal["val/macro_ap", "val/macro_f1"] = Field(
        description="made as large as can be; average precision needs no thresholds and is the steadier"
    )
    trials: int = Field(ge=1, description="so many in all, finished or pruned, over every process and resumption")
    seed: int = Field(ge=0, lt=2**32, description="seeds the proposals; the trainings have the config's own seed")
    storage: str | None = Field(
        description="null: runs/sweeps/<name>/study.sqlite; or a database's URL that several machines share"
    )
    pruning: Pruning | None = Field(description="null: every trial trains to its end")
    search: dict[str, _Range] = Field(min_length=1, description="key of the config: the values it may take")

    @field_validator("storage")
    @classmethod
    def _is_a_url(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                make_url(value)
        except (ArgumentError, ValueError):
            raise _wrong("expected null or a URL such as postgresql+psycopg://user@host/database") from None
        return value


def load(path: str | Path) -> SweepConfig:
    """Reads a sweep's config and holds its search against the config that it is over.

    Raises:
        ConfigError: with every problem of the file in one message.
    """
    values = config.read(path)
    settings, problems = None, []
    try:
        settings = SweepConfig.model_validate(values)
    except ValidationError as error:
        problems += [_explained(item) for item in error.errors()]
    base, search = values.get("config"), values.get("search")
    if isinstance(base, str) and isinstance(search, dict):
        try:
            problems += _misfits(search, config.load(base))
        except ConfigError as error:
            problems.append(str(error).rstrip("."))
    if problems or settings is None:
        raise ConfigError(f"{path}: " + "; ".join(problems) + ".")
    return settings


def masked(url: str) -> str:
    """A database's URL without its password, and without options, which may hold another."""
    return make_url(url).set(query={}).render_as_string(hide_password=True)


def masked_text(text: str, url: str) -> str:
    """The text with the passwords of the URL taken out, in whatever form they stand there."""
    parts = make_url(url)
    options = [value for name, value in parts.query.items() if "pass" in name.lower() or "pwd" in name.lower()]
    text = text.replace(url, masked(url)).replace(parts.render_as_string(hide_password=False), masked(url))
    for secret in filter(None, [parts.password, *options]):
        text = text.replace(str(secret), "***")
    return text


def _misfits(search: Mapping[str, Any], base: config.Common) -> list[str]:
    """What under `search` the config cannot take; what is no range at all has been told already."""
    known = [key for key in type(base).model_fields if key not in _WHY_NOT]
    problems = []
    for key, written in search.items():
        if key in _WHY_NOT:
            problems.append(f"search.{key}: is not searched ({_WHY_NOT[key]})")
        elif key not in known:
            problems.append(config.explained({"type": "extra_forbidden", "loc": ("search", key)}, known))
        else:
            problems += _misfit(key, written, base)
    return problems


def _misfit(key: str, written: Any, base: config.Common) -> list[str]:
    try:
        one = _RANGE.validate_python(written)
    except ValidationError:
        return []
    if isinstance(one, Choices):
        values: list[Any] = list(one.choices)
    elif type(base).model_fields[key].annotation in (int, float):
        values = [one.low, one.low + (one.step or 0), one.high]
    else:
        return [f"search.{key}: is no number, so expected choices"]
    problems: dict[str, None] = {}  # in their order, each once
    for value in values:
        try:
            type(base).model_validate({**base.model_dump(), key: value})
        except ValidationError as error:
            problems |= {f"search.{config.explained(item, ())}": None for item in error.errors()}
    return list(problems)


def _explained(item: Any) -> str:
    place, known = item["loc"], list(SweepConfig.model_fields)
    if place[:1] == ("storage",):
        item = {**item, "input": "…"}  # it may hold a password
    elif place[:1] == ("pruning",):
        known = list(Pruning.model_fields)
    elif place[:1] == ("search",) and len(place) > 2:  # the third part is pydantic's name for the class that it took
        known = list((Choices if place[2] == "choices" else Span).model_fields)
        item = {**item, "loc": place[:2] + place[3:]}
    return config.explained(item, known)


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("wrong", message)
