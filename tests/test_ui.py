"""MLflow's pages in a browser: what an engineer sees first, compares and opens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.screenshots import CHROMIUM, opened, served
from training import nested, run, seeds, tracking
from training import store as stores
from training.files import write_json

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path, empty_store: Path) -> Iterator[dict[str, str]]:
    """A server over two runs, two seeds of a third, and a comparison."""
    folder = tmp_path_factory.mktemp("ui")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "STORE", folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, score in (("plain", 0.612), ("swapped", 0.731), ("two/seed-1", 0.5), ("two/seed-2", 0.5)):
            copy = Path(shutil.copytree(tiny_run, folder / name, ignore=shutil.ignore_patterns(run.WEIGHTS, run.BEGUN)))
            figures = run._read(copy / "metrics.json") or {}
            write_json(copy / "metrics.json", {**figures, "test/macro_f1": score})
            if "/" not in name:
                tracking.log(copy)
        seeds._write(folder / "two", "seeds-0", ["seed-1", "seed-2"])
        nested.log(folder / "two")
        words = folder / "comparison.md"
        words.write_text("swapped is better than plain")
        write_json(folder / "comparison.json", {"ranking": [{"name": "swapped"}, {"name": "plain"}]})
        nested.log_comparison([folder / "comparison.json", words], words.read_text())
        with served(folder) as found:
            yield found


@pytest.fixture
def page(links: dict[str, str]) -> Iterator[Any]:
    with opened() as one:
        one.goto(links["runs, the best first"])
        one.get_by_role("link", name="tiny swapped").wait_for()
        yield one


def _row(page: Any, name: str) -> Any:
    return page.locator(".ag-row").filter(has=page.get_by_role("link", name=name, exact=True)).first


def test_the_first_view_shows_names_and_the_headline_the_best_first(page: Any) -> None:
    names = ("tiny swapped", "tiny plain", "tiny two", "comparison: swapped, plain")
    heights = [_row(page, name).bounding_box()["y"] for name in names]
    assert heights == sorted(heights)
    shown = page.locator("[role=gridcell][col-id='metrics.`test/macro_f1`']")
    assert sorted(shown.all_inner_texts()) == ["-", "0.5", "0.612", "0.731"]
    headline, other = (
        page.locator(f".ag-header-cell[col-id='metrics.`{name}`']").bounding_box()["x"]
        for name in ("test/macro_f1", "behaviour/all")
    )
    assert headline < other and headline < 800, "at first sight, beside the open assistant"
    assert page.get_by_text("decides: mean F1 over the intents").is_visible()


def test_two_runs_are_selected_and_compared(page: Any) -> None:
    for name in ("tiny swapped", "tiny plain"):
        _row(page, name).locator(".ag-selection-checkbox input").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for()
    for only_differences in page.get_by_text("Show diff only").all():
        only_differences.click()
    for shown in ("test/macro_f1", "tiny swapped", "tiny plain", "0.731", "0.612"):
        page.get_by_text(shown, exact=True).first.wait_for()


def test_a_runs_page_says_what_it_is_and_opens_its_report_and_figures(page: Any) -> None:
    page.get_by_role("link", name="tiny swapped", exact=True).click()
    page.get_by_text("Start with report.html under Artifacts").wait_for()
    about = page.locator("body").inner_text()
    assert "test macro-F1 0.731" in about and "corpus.sha256" in about and "git.dirty" in about
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report.html").click()
    page.frame_locator("iframe").get_by_text("macro-F1 on the test split").first.wait_for()
    page.get_by_text("figures", exact=True).click()
    page.get_by_text("test-reliability.png").click()
    page.wait_for_function("[...document.images].some(one => one.src.startsWith('blob:') && one.naturalWidth > 300)")


def test_the_charts_start_with_the_headline(page: Any, links: dict[str, str]) -> None:
    page.goto(links["runs, the best first"] + "&compareRunsMode=CHART")
    page.locator(".js-plotly-plot").first.wait_for()
    groups = page.get_by_test_id("experiment-view-compare-runs-section-header").all_inner_texts()
    assert [words.split("\n")[0] for words in groups[:4]] == ["Headline", "Course of training", "test", "val"]
    assert "(3)" in groups[0] and "(3)" in groups[1]


def test_a_link_that_is_printed_for_seeds_folds_them(page: Any, links: dict[str, str]) -> None:
    page.goto(links["seeds and trials, folded"])
    parent = _row(page, "tiny two")
    parent.wait_for()
    assert page.get_by_role("link", name="tiny seed-1").count() == 0
    parent.locator("button").click()
    page.get_by_role("link", name="tiny seed-1").wait_for()
