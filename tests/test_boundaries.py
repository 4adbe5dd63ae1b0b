"""The walls: what imports what, what a wheel carries, and what an import does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import communique
from training.export import export
from training.package import digest, package

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "mlflow", "sklearn", "datasets", "pandas", "matplotlib")


def _modules_after(code: str) -> set[str]:
    # names, not prefixes: the interpreter starts with a few of its own
    script = f"import sys\n{code}\nimport json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_runtime_imports_nothing_heavy(exported: Path) -> None:
    loaded = _modules_after(f"import communique; communique.load({str(exported)!r}).read('A text. And more.')")
    assert not loaded & {*HEAVY, "training", "communique.explain", "communique.page"}


def test_help_imports_nothing_heavy() -> None:
    code = "from training.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not _modules_after(code) & set(HEAVY)


def test_the_public_names_are_these() -> None:
    assert communique.__all__ == ["Classifier", "CommuniqueError", "Statement", "__version__", "load"]


@pytest.fixture(scope="module")
def wheel(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(exported, tmp_path_factory.mktemp("dist"))


def test_a_wheel_holds_runtime_and_model_alone(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    model = {name.removeprefix("communique/model/") for name in names if name.startswith("communique/model/")}
    manifest = json.loads(zipfile.ZipFile(wheel).read("communique/model/communique.json"))
    precise = {"int8": "onnx/model_quantized.onnx", "fp32": "onnx/model.onnx"}[manifest["precision"]]
    assert model == {"communique.json", "SHA256SUMS", "tokenizer.json", precise}
    code = {name for name in names if not name.startswith("communique/model/")}
    kinds = (".css", ".py", ".typed")
    expected = {f"communique/{file.name}" for file in (ROOT / "communique").iterdir() if file.suffix in kinds}
    assert "communique/page.css" in expected
    assert code == expected


def test_two_builds_give_one_hash(
    wheel: Path, bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TZ", "Pacific/Apia"), ("SOURCE_DATE_EPOCH", "1"), ("PYTHONHASHSEED", "7"), ("LC_ALL", "C")):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o077)
    try:
        assert digest(package(bundle_copy, tmp_path / "elsewhere")) == digest(wheel)
    finally:
        os.umask(before)


def test_two_exports_give_the_same_bytes(exported: Path, tiny_run: Path, tmp_path: Path) -> None:
    again = export(tiny_run, tmp_path / "again")
    assert (again / "SHA256SUMS").read_text() == (exported / "SHA256SUMS").read_text()


def test_an_empty_venv_reads_with_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    quiet = ["--disable-pip-version-check", "--quiet", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([python, "-m", "pip", "install", *quiet, str(wheel)], check=True, cwd=tmp_path)
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    names = {entry["name"].lower() for entry in json.loads(listed.stdout)}
    assert not names & {
        "torch",
        "transformers",
        "mlflow",
        "mlflow-skinny",
        "scikit-learn",
        "datasets",
        "pandas",
    }
    (tmp_path / "article.txt").write_text("The minister of Oslo said: we reject the plan for Lima. It rained.")
    command = [str(tmp_path / "venv" / "bin" / "communique"), "read", "article.txt", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["intents"] == ["rejection"] and second["text"] == "It rained."
    info = subprocess.run([*command[:1], "info"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert f"communique {communique.__version__}+tiny." in info.stdout
