"""MLflow's pages in Chromium: for tests/test_ui.py, and for the README's pictures, which `make screenshots` takes.

The pictures are of copies of finished runs, logged into a store of their own:

    python -m tests.screenshots RUN RUN …       (all finished ones in runs/)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training import run
from training.files import write_json

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZE = {"width": 1600, "height": 900}


@contextlib.contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """`python -m training ui` over the store in `folder`: the links that it prints, by the word before them."""
    code = (
        "import sys; from pathlib import Path; from training import store, ui; "
        "store.STORE = Path(sys.argv[1]); sys.exit(ui.serve(5100))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""}
    command = [sys.executable, "-c", code, str(folder)]
    links: dict[str, str] = {}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            for line in server.stdout:
                word, _, link = line.strip().partition(": ")
                if link.startswith("http"):
                    links[word] = link
                if line.startswith("stop with"):
                    break
            assert links, (folder / "server.log").read_text()
            yield links
        finally:
            server.terminate()


@contextlib.contextmanager
def opened(size: dict[str, int] = SIZE) -> Iterator[Any]:
    """A page of a fresh Chromium that reaches this machine only."""
    from playwright.sync_api import sync_playwright

    flags = [
        "--disable-gpu",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    ]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = chromium.new_page(viewport=size)
        page.set_default_timeout(60_000)
        yield page
        chromium.close()


def logged(folders: Sequence[Path], place: Path) -> None:
    """Logs copies of finished runs, and of several their comparison, into a store in `place`."""
    from training import compare, nested, store

    store.STORE = place
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    copies = []
    for folder in folders:
        copy = place / "runs" / folder.name
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(run.WEIGHTS, run.BEGUN))
        for file in (*copy.rglob(run.DONE), *copy.rglob(run.SEEDS)):
            write_json(file, {**json.loads(file.read_text(encoding="utf-8")), "mlflow_run_id": None})
        nested.log(copy)
        copies.append(str(copy))
    if len(copies) > 1:
        compare.command(copies, everything=False, split="test", out=None, as_json=False, track=True)


def take(links: dict[str, str], into: Path) -> None:
    """The pictures: the first view of the runs, and its charts."""
    into.mkdir(exist_ok=True)
    with opened({"width": 1500, "height": 620}) as page:
        page.goto(links["runs, the best first"])
        page.get_by_role("radio", name="Model training").or_(page.get_by_text("Model training")).first.click()
        page.locator('[data-component-id="mlflow.assistant.chat_panel.close"]').click()
        page.locator(".ag-row").first.wait_for()
        page.wait_for_timeout(2000)
        page.screenshot(path=into / "ui-runs.png")
        page.set_viewport_size({"width": 1500, "height": 900})
        page.goto(links["runs, the best first"] + "&compareRunsMode=CHART")
        page.locator(".js-plotly-plot").nth(2).wait_for()
        page.wait_for_timeout(4000)
        page.screenshot(path=into / "ui-compare.png")


if __name__ == "__main__":
    targets = [run.find(name) for name in sys.argv[1:]] or list(run.all_finished())
    with tempfile.TemporaryDirectory(prefix="communique-screenshots-") as scratch:
        logged(targets, Path(scratch))
        with served(Path(scratch)) as found:
            take(found, ROOT / "docs")
