"""The artefact format: a folder with a model in it, and how to write, read and verify one.

A bundle holds no pickle and no code. Two files make it a bundle: `communique.json`, the manifest, and
`SHA256SUMS`, which lists every other file with its hash. The rest is what the ecosystems around expect:
`config.json`, `tokenizer.json`, `model.safetensors`, `onnx/…`, and a model card.

Old formats: a reader reads every FORMAT from 1 up to its own; a newer one is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from communique.errors import BundleError

FORMAT = 1
MANIFEST = "communique.json"
SUMS = "SHA256SUMS"
TOKENIZER = "tokenizer.json"
MODELS = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}
MAX_BYTES = 4 * 2**30  # of one file; larger is no sentence classifier
MAX_JSON_BYTES = 64 * 2**20
MAX_LABELS = 1000
MAX_NAME = 200  # characters of a label, a name or a version


@dataclass(frozen=True)
class Manifest:
    """What the runtime must know about a model, and what people ask about it.

    Attributes:
        format: the artefact format's number, see `FORMAT`.
        name, version: of the model, e.g. "minilm" and "1.0.0".
        labels: label names in the order of the model's outputs.
        task: "multi_label" (any number of labels a text) or "single_label" (exactly one).
        temperature: logits are divided by it before the sigmoid or softmax (Guo et al. 2017).
        thresholds: a label is given where its probability reaches its threshold; multi-label only.
        max_length: tokens a window, special tokens included.
        precision: the model file that `load` takes by default, a key of `MODELS`.
        quantisation: what int8 changed on validation: flips, macro-F1, largest probability change; `leaving`: the
            share of the texts that leave the model after one of its lower layers.
        corpus: name, version and sha256 of the statements that it was trained on.
        run: config and tracker run that it came from.
        encoder: name, sha256 and licence of the pretrained weights.
        figures: flat metric names to values, e.g. "test/macro_f1".
        golden: texts with the probabilities they must get, re-run by `verify`.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    task: str
    temperature: float
    thresholds: tuple[float, ...]
    max_length: int
    precision: str
    format: int = FORMAT
    quantisation: Mapping[str, Any] = field(default_factory=dict)
    corpus: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    encoder: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    golden: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> str:
        """The manifest as the text of `communique.json`."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Manifest:
        """Parses and checks `communique.json`; `where` names it in errors."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{where}: not JSON ({error}). Export or download the bundle again.") from None
        if not isinstance(raw, dict) or not _is_number(raw.get("format"), int) or raw["format"] < 1:
            raise BundleError(f"{where}: no format number; this is not a communique bundle.")
        if raw["format"] > FORMAT:
            raise BundleError(
                f"{where}: the bundle has format {raw['format']}, this version of communique reads up to "
                f"{FORMAT}. Upgrade communique."
            )
        unknown, missing = set(raw) - set(cls.__dataclass_fields__), _REQUIRED - set(raw)
        if unknown or missing:
            raise BundleError(
                f"{where}: not a manifest of format {raw['format']}"
                + (f"; missing {', '.join(sorted(missing))}" if missing else "")
                + (f"; unknown {', '.join(sorted(unknown))}" if unknown else "")
                + ". Export or download the bundle again."
            )
        if problems := [
            f"{key} must be {what}" for key, (what, fits) in _FIELDS.items() if key in raw and not fits(raw[key])
        ]:
            raise BundleError(f"{where}: a field has the wrong type: " + "; ".join(problems) + ".")
        manifest = cls(
            **{
                **raw,
                "labels": tuple(raw["labels"]),
                "thresholds": tuple(float(value) for value in raw["thresholds"]),
                "temperature": float(raw["temperature"]),
                "golden": tuple(raw.get("golden", ())),
            }
        )
        manifest._check(where)
        return manifest

    def _check(self, where: str) -> None:
        problems = []
        if not 1 <= len(self.labels) <= MAX_LABELS or len(set(self.labels)) != len(self.labels):
            problems.append(f"labels must be distinct and 1 to {MAX_LABELS}, found {len(self.labels)}")
        if len(self.thresholds) != len(self.labels):
            problems.append(f"{len(self.labels)} labels but {len(self.thresholds)} thresholds")
        if self.task not in ("multi_label", "single_label"):
            problems.append(f"task must be multi_label or single_label, found {self.task!r}")
        if not 1e-3 <= self.temperature <= 1e3:
            problems.append(f"temperature must be 0.001 to 1000, found {self.temperature}")
        if not 8 <= self.max_length <= 8192:
            problems.append(f"max_length must be 8 to 8192, found {self.max_length}")
        if self.precision not in MODELS:
            problems.append(f"precision must be one of {', '.join(MODELS)}, found {self.precision!r}")
        if any(len(one["probabilities"]) != len(self.labels) for one in self.golden):
            problems.append(f"each golden text must have {len(self.labels)} probabilities, one a label")
        if problems:
            raise BundleError(f"{where}: " + "; ".join(problems) + ".")


def _is_number(value: object, kind: type = float) -> bool:
    """Whether it is a finite number (for `int`, a whole one); True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)


def is_name(value: object) -> bool:
    """Whether a label, name or version can be shown anywhere: short, and nothing in it that would steer a terminal."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_golden(value: object) -> bool:
    return _are(
        value,
        lambda one: (
            isinstance(one, dict) and isinstance(one.get("text"), str) and _are(one.get("probabilities"), _is_number)
        ),
    )


def _are(value: object, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(fits, value))


# What is written in a bundle by others is checked here, once: nothing behind this asks for a type again.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": (f"printable text of 1 to {MAX_NAME} characters", is_name),
    "version": (f"printable text of 1 to {MAX_NAME} characters", is_name),
    "labels": (f"a list of printable texts of 1 to {MAX_NAME} characters", lambda value: _are(value, is_name)),
    "task": ("a string", lambda value: isinstance(value, str)),
    "temperature": ("a finite number", _is_number),
    "thresholds": ("a list of finite numbers", lambda value: _are(value, _is_number)),
    "max_length": ("a whole number", lambda value: _is_number(value, int)),
    "precision": ("a string", lambda value: isinstance(value, str)),
    "quantisation": ("an object", _is_object),
    "corpus": ("an object", _is_object),
    "run": ("an object", _is_object),
    "encoder": ("an object", _is_object),
    "figures": ("an object of finite numbers", lambda value: _is_object(value) and _are([*value.values()], _is_number)),
    "golden": ("a list of objects with text and probabilities", _is_golden),
}
_REQUIRED = {
    "format", "name", "version", "labels", "task", "temperature", "thresholds", "max_length", "precision",
}  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """A bundle read into memory: each of its bytes was hashed before anything parses it."""

    path: Path
    manifest: Manifest
    precision: str
    tokenizer: bytes
    model: bytes


def read(path: str | Path, precision: str | None = None) -> Bundle:
    """Reads what the runtime needs from the bundle at `path`, checking each file's SHA-256.

    Args:
        path: the bundle's folder.
        precision: "int8" or "fp32"; None takes the one that the manifest recommends.

    Raises:
        BundleError: the folder is no bundle, a file is missing, altered, a link or too large, or the
            format is newer than this version reads.
    """
    root = Path(path)
    if not root.is_dir():
        raise BundleError(f"{root}: no such folder. Expected a model bundle, as `make bundle` writes it.")
    sums = _read_sums(root)
    manifest = Manifest.from_json(_checked(root, MANIFEST, sums, MAX_JSON_BYTES), str(root / MANIFEST))
    chosen = precision or manifest.precision
    if chosen not in MODELS:
        raise BundleError(f"precision must be one of {', '.join(MODELS)}, found {chosen!r}.")
    if not (root / MODELS[chosen]).exists():
        held = [name for name, file in MODELS.items() if (root / file).exists()]
        raise BundleError(
            f"{root}: holds no {chosen} model ({MODELS[chosen]} is missing)"
            + (f"; it has {', '.join(held)}." if held else "; it is incomplete.")
        )
    return Bundle(
        path=root,
        manifest=manifest,
        precision=chosen,
        tokenizer=_checked(root, TOKENIZER, sums, MAX_JSON_BYTES),
        model=_checked(root, MODELS[chosen], sums, MAX_BYTES),
    )


def verify(path: str | Path) -> Manifest:
    """Checks every file that `SHA256SUMS` lists, and that nothing else lies in the folder.

    Raises:
        BundleError: naming the first file that is missing, altered, a link, or not listed.
    """
    root = Path(path)
    if not root.is_dir():
        raise BundleError(f"{root}: no such folder. Expected a model bundle, as `make bundle` writes it.")
    sums = _read_sums(root)
    for name in sums:
        _hash_checked(root, name, sums)
    present = {file.relative_to(root).as_posix() for file in root.rglob("*") if not file.is_dir()}
    if extra := sorted(present - set(sums) - {SUMS}):
        raise BundleError(f"{root}: holds {extra[0]}, which {SUMS} does not list.")
    return Manifest.from_json((root / MANIFEST).read_bytes(), str(root / MANIFEST))


def write(path: str | Path, manifest: Manifest, files: Mapping[str, Path | bytes]) -> Path:
    """Writes a bundle whole or not at all: beside its place first, then renamed into it.

    Args:
        path: the folder to make; a bundle that is there is replaced.
        manifest: becomes `communique.json`, written after every other file.
        files: file names inside the bundle (with /) to their content or a path to copy.
    """
    root = Path(path)
    if root.exists() and not (root / MANIFEST).exists() and any(root.iterdir()):
        raise BundleError(f"{root}: is there already and is not a bundle; it will not be replaced.")
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.with_name(f".{root.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, content in files.items():
            target = partial / _safe(name, root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)
        (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        write_sums(partial)
        retired = root.with_name(f".{root.name}.retired-{os.getpid()}")
        if root.exists():
            root.rename(retired)
        partial.rename(root)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def write_sums(root: Path) -> None:
    """Writes `SHA256SUMS` over every file in `root`, in the format of sha256sum."""
    names = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
    lines = [f"{_sha256(root / name)}  {name}\n" for name in names if name != SUMS]
    (root / SUMS).write_text("".join(lines), encoding="utf-8")


def _read_sums(root: Path) -> dict[str, str]:
    file = root / SUMS
    if file.is_symlink() or not file.is_file():
        raise BundleError(f"{root}: no {SUMS}; this is not a communique bundle, or it is incomplete.")
    if file.stat().st_size > MAX_JSON_BYTES:
        raise BundleError(f"{file}: is too large to be a list of hashes.")
    sums = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise BundleError(f"{file}:{number}: expected '<sha256>  <file>', found {line[:80]!r}.")
        sums[_safe(name, root)] = digest
    return sums


def _safe(name: str, root: Path) -> str:
    """The name, if it stays inside the bundle."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or not pure.parts:
        raise BundleError(f"{root}: the file name {name!r} leads out of the bundle.")
    if len(name) > MAX_NAME:
        raise BundleError(f"{root}: a file name of {len(name)} characters, more than the {MAX_NAME} allowed.")
    return pure.as_posix()


def _plain_file(root: Path, name: str, sums: Mapping[str, str]) -> Path:
    file = root / name
    if name not in sums:
        raise BundleError(f"{root}: {SUMS} does not list {name}; the bundle is incomplete.")
    if any(part.is_symlink() for part in (file, *file.parents) if part != root and root in part.parents):
        raise BundleError(f"{file}: is a symbolic link; a bundle holds plain files only.")
    if not file.is_file():
        raise BundleError(f"{file}: is missing; the bundle is incomplete. Export or download it again.")
    return file


def _checked(root: Path, name: str, sums: Mapping[str, str], limit: int) -> bytes:
    """The bytes of a file, after its size and hash were found to be right."""
    file = _plain_file(root, name, sums)
    if file.stat().st_size > limit:
        raise BundleError(f"{file}: has {file.stat().st_size:,} bytes, more than the {limit:,} allowed.")
    content = file.read_bytes()
    _same(hashlib.sha256(content).hexdigest(), sums[name], file)
    return content


def _hash_checked(root: Path, name: str, sums: Mapping[str, str]) -> None:
    file = _plain_file(root, name, sums)
    _same(_sha256(file), sums[name], file)


def _same(found: str, expected: str, file: Path) -> None:
    if found != expected:
        raise BundleError(
            f"{file}: its SHA-256 is {found[:12]}…, {SUMS} says {expected[:12]}…: the file is truncated or "
            "altered. Export or download the bundle again."
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
