"""The page, in a browser: what it shows, that it filters, and that nothing in a text can do anything."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from communique import Statement
from communique.documents import Document
from communique.explain import Word
from communique.page import html, signs

LABELS = ("proposal", "condition", "rejection", "reaction")
THRESHOLDS = (0.5, 0.4, 0.6, 0.5)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")
HOSTILE = """<script>document.title = "taken"</script>
"><img src=x onerror="document.title = 'taken'"> --></style></title><script>document.title = 'taken'</script>
<style>* { display: none !important }</style> <link rel=stylesheet href=http://127.0.0.1:9/a.css>
<base href="http://127.0.0.1:9/"> <a href="javascript:document.title='taken'">x</a> &lt;b&gt; ' " ` \u202e \u2028"""


def document(
    text: str, found: dict[str, tuple[str, ...]], name: str = "article.md", unsure: tuple[str, ...] = ()
) -> Document:
    """A document whose statements are the keys of `found`, each decided by its first word."""
    statements, words = [], {}
    for place, (sentence, intents) in enumerate(found.items()):
        start = text.index(sentence)
        scores = {label: 0.91 if label in intents else 0.07 for label in LABELS}
        statements.append(Statement(sentence, intents, scores, start, start + len(sentence), 0.83, sentence in unsure))
        if intents and (first := re.search(r"\w+", sentence)):
            words[place] = (Word(first.group(), *first.span(), dict.fromkeys(LABELS, 2.5)),)
    return Document(name, text, statements, words)


TEXT = "# Talks\n\nWe reject the plan.  It rained.\nOslo offers talks if Lima agrees.\n\n\n  - We may act.\n"
ARTICLE = document(
    TEXT,
    {
        "Talks": (),
        "We reject the plan.": ("rejection",),
        "It rained.": (),
        "Oslo offers talks if Lima agrees.": ("proposal", "condition"),
        "We may act.": ("reaction",),
    },
    unsure=("We may act.",),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    flags = ["--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


def opened(
    browser: Any,
    folder: Path,
    *documents: Document,
    labels: Sequence[str] = LABELS,
    model: str = "communique",
    **options: Any,
) -> Any:
    """The page of these documents, with what it asked for and said while it opened in `.noise`."""
    file = folder / "page.html"
    file.write_text(html(documents, labels, thresholds=THRESHOLDS[: len(labels)], model=model), encoding="utf-8")
    page = browser.new_page(**options)
    page.noise = []
    page.on("request", lambda request: page.noise.append(request.url))
    page.on("console", lambda message: page.noise.append(message.text))
    page.on("dialog", lambda dialog: page.noise.append(dialog.message))
    page.goto(file.as_uri())
    assert page.noise.pop(0) == file.as_uri()
    return page


def visible(page: Any) -> list[int]:
    """The places of the statements that are shown."""
    return [int(found.get_attribute("id")[3:]) for found in page.locator(".s").filter(visible=True).all()]


@needs_browser
@pytest.mark.parametrize(
    "text", [TEXT, TEXT.replace("\n", "\r\n"), "\n\tBefore.\n\nWe reject the plan.\n\tAfter <b>.\n \n\n  End"]
)
def test_without_its_marks_the_page_holds_the_text_as_it_was(browser: Any, tmp_path: Path, text: str) -> None:
    page = opened(browser, tmp_path, document(text, {"We reject the plan.": ("rejection",)}))
    page.evaluate("document.querySelectorAll('.tag, .card').forEach(mark => mark.remove())")
    paragraphs = re.split(r"\n(?:[ \t]*\n)+", text.replace("\r\n", "\n"))
    assert page.locator(".par").all_text_contents() == [part for part in paragraphs if part.strip()]


def test_signs_are_short_and_tell_labels_apart() -> None:
    assert signs(LABELS) == ["P", "C", "Rj", "Ra"]
    assert signs(["re", "rea", "no"]) == ["R", "Ra", "N"]
    assert signs(["ab", "ac", "abc"]) == ["1", "2", "3"]


@needs_browser
def test_pointing_and_tabbing_show_scores_and_deciding_words(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, ARTICLE)
    cards = page.locator(".card").filter(visible=True)
    assert cards.count() == 0
    page.hover("#d1s2")
    assert cards.count() == 1 and "none of these" in cards.inner_text()
    page.mouse.move(0, 0)
    seen = []
    while len(seen) < 3:
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "s":
            assert cards.count() == 1
            seen.append(cards.inner_text())
    assert "rejection" in seen[0] and "We 2.5" in seen[0] and "0.91" in seen[0] and "confidence 0.83" in seen[0]
    assert "proposal, condition" in seen[1] and seen[1].count("Oslo 2.5") == 2
    assert "unsure" in seen[2]
    page.hover("#d1s1")  # what is pointed at goes before what has the focus
    assert cards.count() == 1 and "rejection" in cards.locator("strong").inner_text()


@needs_browser
@pytest.mark.parametrize("script", [True, False])
def test_filters_hide_and_bring_back_with_and_without_scripts(browser: Any, tmp_path: Path, script: bool) -> None:
    page = opened(browser, tmp_path, ARTICLE, java_script_enabled=script)
    assert visible(page) == [0, 1, 2, 3, 4]
    page.uncheck("#fn")
    page.uncheck("#f0")
    assert visible(page) == [1, 3, 4]  # the one that is a condition, too, stays
    page.uncheck("#f1")
    assert visible(page) == [1, 4]
    assert page.locator(".par").filter(visible=True).count() == 2
    page.uncheck("#fu")
    assert visible(page) == [1]
    page.uncheck("#f3")
    assert page.locator(".par").filter(visible=True).count() == 1
    page.click("button")
    assert visible(page) == [0, 1, 2, 3, 4]


@needs_browser
def test_the_course_leads_to_the_sentence(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, ARTICLE, java_script_enabled=False)
    assert page.locator(".course a").count() == 5
    assert page.locator(".course a").nth(3).locator("rect:not(.hit)").count() == 2
    page.locator(".course a").nth(3).click()
    assert page.url.endswith("#d1s3")
    page.mouse.move(0, 0)
    assert "proposal, condition" in page.locator(".card").filter(visible=True).inner_text()


@needs_browser
def test_a_hostile_text_and_name_are_only_text(browser: Any, tmp_path: Path) -> None:
    read = document("Safe.\n\n" + HOSTILE, {"Safe.": ("proposal",), HOSTILE: LABELS}, name=HOSTILE)
    page = opened(browser, tmp_path, read, document("Two.", {"Two.": ()}))
    page.wait_for_timeout(300)
    assert page.noise == [] and page.title() == "2 documents – communique"
    assert page.locator("script, img, link, base, iframe").count() == 0 and page.locator("style").count() == 1
    assert page.locator("a[href^=javascript], [onerror]").count() == 0
    shown = page.locator("#d1s1 > .u").inner_text()
    assert "<img src=x onerror=" in shown and "&lt;b&gt;" in shown
    assert HOSTILE.splitlines()[0] in page.locator("#d1 h2").inner_text()


@needs_browser
def test_hostile_labels_words_and_models_are_only_text(browser: Any, tmp_path: Path) -> None:
    """Labels of a foreign bundle are printable at least; here they are not even that."""
    labels = [HOSTILE, '"><script>document.title = "taken"</script>', "' onmouseover='document.title=1' x='"]
    scores = dict.fromkeys(labels, 0.9)
    words = (Word(HOSTILE, 0, len(HOSTILE), dict.fromkeys(labels, 2.0)),)
    read = Document(
        "a.md", HOSTILE, [Statement(HOSTILE, tuple(labels), scores, 0, len(HOSTILE), 0.5, True)], {0: words}
    )
    page = opened(browser, tmp_path, read, read, labels=labels, model=HOSTILE)
    page.hover("#d1s0 .tag >> nth=0")
    page.wait_for_timeout(300)
    assert page.noise == [] and page.title() == "2 documents – communique"
    assert page.locator("script, img, link, base, iframe").count() == 0 and page.locator("style").count() == 1
    assert page.locator("a[href^=javascript], [onerror], [onmouseover]").count() == 0
    assert "<script>document.title" in page.locator(".card").first.inner_text()
    assert "<img src=x onerror=" in page.locator("footer").inner_text()


@needs_browser
def test_even_unescaped_a_script_would_not_run(browser: Any, tmp_path: Path) -> None:
    """The policy is a second wall: it must hold where the first has a hole."""
    hole = html([ARTICLE], LABELS).replace("It rained.", HOSTILE)
    (tmp_path / "hole.html").write_text(hole, encoding="utf-8")
    page = browser.new_page()
    refused: dict[str, str | None] = {}
    page.on("request", lambda request: refused.update({request.url: None}))
    page.on("requestfailed", lambda request: refused.update({request.url: request.failure}))
    page.goto((tmp_path / "hole.html").as_uri())
    page.wait_for_timeout(300)
    assert page.locator("script").count() > 0 and "taken" not in page.title()
    assert page.locator("h1").is_visible()
    assert refused.pop((tmp_path / "hole.html").as_uri()) is None
    assert len(refused) > 1 and set(refused.values()) == {"csp"}


@needs_browser
@pytest.mark.parametrize(("scheme", "light"), [("light", True), ("dark", False)])
def test_light_dark_and_phone(browser: Any, tmp_path: Path, scheme: str, light: bool) -> None:
    page = opened(browser, tmp_path, ARTICLE, ARTICLE, color_scheme=scheme, viewport={"width": 360, "height": 740})
    red, *_ = map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert (red > 128) == light
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.emulate_media(media="print")
    assert not page.locator(".hint").is_visible() and page.locator(".tag .p").first.is_visible()
