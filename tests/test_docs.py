"""Documents, versions and pins say what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import communique
from training import __main__ as pipeline

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _name(requirement: str) -> str:
    return re.split(r"[\s<>=!~\[;]", requirement)[0].lower().replace("_", "-")


def test_the_changelog_leads_with_this_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first and first[1] == communique.__version__


def test_every_module_is_in_the_readmes_tree_and_nothing_else_is() -> None:
    tree = README[README.index("## The tree") :]
    for folder in ("communique", "training", "benchmarks", "examples"):
        for file in (ROOT / folder).glob("*.py"):
            if file.name not in ("__init__.py", "errors.py", "files.py", "console.py"):
                assert re.search(rf"\b{re.escape(file.name)}\b", tree), f"{folder}/{file.name} is not in the README"
    folders = [ROOT / folder for folder in ("communique", "training", "benchmarks", "examples")]
    assert not set(re.findall(r"\b(\w+\.py)\b", tree)) - {
        file.name for folder in folders for file in folder.glob("*.py")
    }


@pytest.mark.parametrize("name", GUIDES)
def test_every_make_target_in_a_guide_is_there(name: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = re.findall(r"(?:^|`|\()make ([a-z -]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    asked = {line.split("  ")[0] for line in lines}
    assert asked and {word for line in asked for word in line.split()} <= targets


@pytest.mark.parametrize("name", GUIDES)
def test_every_file_and_name_in_a_guide_is_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    made = ("runs/", "bundles/", "dist/", "articles/", "communique/model")  # by commands
    paths = re.findall(r"(?<![\w/.])((?:\w[\w.-]*/)+[\w-]+\.(?:py|md|jsonl?|yaml|toml|csv))\b", text)
    paths = [path for path in paths if not path.startswith(made) and not re.search("[A-Z]{4}", Path(path).stem)]
    assert name == "README.md" or len(paths) > 1
    assert not [path for path in paths if not (ROOT / path).exists()]
    sources = "".join(
        file.read_text(encoding="utf-8")
        for folder in ("communique", "training")
        for file in (ROOT / folder).glob("*.py")
    )
    names = re.findall(r"`(_[A-Za-z]\w+|SUITES|FORMAT|AnyConfig)`", text)
    assert not [one for one in names if not re.search(rf"^(def )?{one}\b", sources, re.MULTILINE)]


def test_pipeline_targets_are_commands_of_the_same_word() -> None:
    makefile = (ROOT / "Makefile").read_text()
    called = set(re.findall(r"-m training (\w+)", makefile))
    with pytest.raises(SystemExit):
        pipeline.main(["no-such-command"])
    help_text = pipeline._parser().format_help()
    for word in called:
        assert re.search(rf"^    {word}\s", help_text, re.MULTILINE) and re.search(rf"^{word}:", makefile, re.MULTILINE)


def test_pins_cover_what_the_project_asks_for_and_what_runs_here() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    pins = {_name(line): line.partition("==")[2] for line in lines}
    asked = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["training"]]
    asked += PROJECT["dependency-groups"]["dev"]
    assert {_name(requirement) for requirement in asked} <= set(pins)
    different = {}
    for name in map(_name, asked):
        installed = metadata.version(name).partition("+")[0]
        if installed != pins[name]:
            different[name] = (installed, pins[name])
    assert not different


def test_the_runtime_asks_for_little() -> None:
    assert {_name(line) for line in PROJECT["project"]["dependencies"]} == {
        "numpy",
        "onnxruntime",
        "tokenizers",
        "nupunkt",
    }


def test_no_python_lies_in_datasets() -> None:
    assert not list((ROOT / "datasets").rglob("*.py")), "it would shadow Hugging Face's datasets"


def test_the_readmes_python_runs(exported: Path, tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block
    (tmp_path / "article.txt").write_text("We reject the plan. It rained.", encoding="utf-8")
    code = block[1].replace("communique.load()", f"communique.load({str(exported)!r})")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "We reject the plan." in done.stdout
