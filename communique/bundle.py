"""The artefact format: a folder with a model in it, and how to write, read and verify one.

A bundle holds no pickle and no code. Two files make it a bundle: `communique.json`, the manifest, and
`SHA256SUMS`, which lists every other file with its hash. The rest is what the ecosystems around expect:
`config.json`, `tokenizer.json`, `model.safetensors`, `onnx/…`, and a model card.

Old formats: a reader reads every FORMAT from 1 up to its own; a newer one is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
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
        quantisation: what int8 changed on validation: flips, macro-F1, largest probability change.
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
        if not isinstance(raw, dict) or not isinstance(raw.get("format"), int):
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
        try:
            manifest = cls(
                **{
                    **raw,
                    "labels": tuple(raw["labels"]),
                    "thresholds": tuple(float(value) for value in raw["thresholds"]),
                    "temperature": float(raw["temperature"]),
                    "max_length": int(raw["max_length"]),
                    "golden": tuple(raw.get("golden", ())),
                }
            )
        except (TypeError, ValueError) as error:
            raise BundleError(f"{where}: a field has the wrong type ({error}).") from None
        manifest._check(where)
        return manifest

    def _check(self, where: str) -> None:
        problems = []
        if not self.labels or len(set(self.labels)) != len(self.labels):
            problems.append(f"labels must be distinct and at least one, found {list(self.labels)}")
        if len(self.thresholds) != len(self.labels):
            problems.append(f"{len(self.labels)} labels but {len(self.thresholds)} thresholds")
        if self.task not in ("multi_label", "single_label"):
            problems.append(f"task must be multi_label or single_label, found {self.task!r}")
        if not 0 < self.temperature < float("inf"):
            problems.append(f"temperature must be positive and finite, found {self.temperature}")
        if not 8 <= self.max_length <= 8192:
            problems.append(f"max_length must be 8 to 8192, found {self.max_length}")
        if self.precision not in MODELS:
            problems.append(f"precision must be one of {', '.join(MODELS)}, found {self.precision!r}")
        if problems:
            raise BundleError(f"{where}: " + "; ".join(problems) + ".")


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
