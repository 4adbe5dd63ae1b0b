"""A bundle to one wheel that holds the runtime and the model, and nothing else."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from communique import __version__, bundle
from training import run
from training.errors import RunError
from training.files import PARTIAL

EPOCH = "1767225600"  # 2026-01-01, the date of every file in the wheel: two builds, one hash


def package(source: Path, output: Path) -> Path:
    """Builds `communique-<version>+<model>.whl` into `output`; returns its path.

    The version's local part names the model, so that wheels of different models never pass for one another.

    Raises:
        BundleError: the bundle is not whole.
        RunError: the build failed.
    """
    manifest = bundle.verify(source)
    model = bundle.MODELS[manifest.precision]
    kept = {name: (source / name).read_bytes() for name in (bundle.TOKENIZER, model)}
    local = re.sub(r"[^a-z0-9]+", ".", f"{manifest.name}.{manifest.version}".lower()).strip(".")
    with tempfile.TemporaryDirectory(prefix="communique-wheel-") as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(run.ROOT / name, tree / name)
        shutil.copytree(
            run.ROOT / "communique",
            tree / "communique",
            ignore=shutil.ignore_patterns("__pycache__", "model"),
        )
        entry = tree / "communique" / "__init__.py"
        entry.write_text(
            entry.read_text(encoding="utf-8").replace(f'"{__version__}"', f'"{__version__}+{local}"'),
            encoding="utf-8",
        )
        bundle.write(tree / "communique" / "model", manifest, kept)
        built = Path(scratch) / "dist"
        done = subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(tree)],
            env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "PYTHONWARNINGS": "ignore"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        wheels = list(built.glob("*.whl"))
        if done.returncode or not wheels:
            raise RunError("the wheel could not be built:\n" + (done.stdout + done.stderr)[-2000:])
        return _moved(wheels[0], output)


def _moved(wheel: Path, output: Path) -> Path:
    """The wheel in `output`, whole before the older ones there are removed."""
    output.mkdir(parents=True, exist_ok=True)
    partial = output / f".{wheel.name}{PARTIAL}{os.getpid()}"
    try:
        shutil.copyfile(wheel, partial)
        place = partial.replace(output / wheel.name)
    finally:
        partial.unlink(missing_ok=True)
    for old in output.glob("communique-*.whl"):
        if old != place:
            old.unlink()
    return place


def digest(wheel: Path) -> str:
    """SHA-256 of a wheel."""
    return hashlib.sha256(wheel.read_bytes()).hexdigest()
