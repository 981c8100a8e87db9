"""The built book, opened from disk in a real browser at two widths.

Run by `.ci/run` after `make book`; skipped where no Chromium or no built book is to be had.
"""

import shutil
from urllib.parse import unquote

import pytest

from tools.surroundings import HOME, chapters

HTML = HOME / "_build" / "html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGES = [f"notebooks/{path.stem}.html" for path in chapters("")]
PAGES += [f"book/{path.stem}.html" for path in sorted((HOME / "book").glob("*.md"))]
WIDTHS = {"desktop": 1280, "phone": 390}

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
    pytest.mark.skipif(not (HTML / "index.html").exists(), reason="the book is not built: run `make book`"),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*quiet, "--disable-sync"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_page_stands_alone(browser, page, width):
    """Nothing from outside, no console error, all math typeset, no page-wide horizontal scroll."""
    tab = browser.new_page(viewport={"width": width, "height": 900})
    outside, errors = [], []
    local = ("file:", "data:", "blob:")
    tab.on("request", lambda request: request.url.startswith(local) or outside.append(request.url))
    tab.on("console", lambda message: message.type == "error" and errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("requestfailed", lambda request: errors.append(f"not found: {request.url}"))
    tab.goto((HTML / page).as_uri(), wait_until="load")
    # Every equation is a picture whose letters are there, with MathML beside it; no script makes them.
    n_math = tab.locator("span.math, div.math").count()
    assert tab.locator("mjx-container > svg").count() == tab.locator("mjx-container math").count() == n_math
    assert tab.locator("merror").count() == 0
    used = tab.evaluate("[...document.querySelectorAll('mjx-container use')].map(use => use.getAttribute('href'))")
    outlines = tab.evaluate("[...document.querySelectorAll('path[id]')].map(path => '#' + path.id)")
    assert set(used) <= set(outlines)
    assert tab.evaluate("typeof MathJax") == "undefined"
    wide = "[...document.querySelectorAll('div.math')].filter(d => d.scrollWidth > d.clientWidth + 1)"
    assert tab.evaluate(f"{wide}.map(d => d.textContent)") == [], "split these equations: they do not fit a phone"
    assert outside == []
    assert errors == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    pictures = "Array.from(document.images).filter(i => !(i.complete && i.naturalWidth) || !i.alt).map(i => i.src)"
    # Pictures are loaded when they come into view; here, all at once.
    tab.evaluate("for (const picture of document.images) picture.loading = 'eager'")
    tab.evaluate("Promise.all([...document.images].map(picture => picture.decode().catch(() => {})))")
    assert tab.evaluate(pictures) == []
    tab.close()


def test_links_and_anchors_inside_the_book_lead_somewhere():
    from bs4 import BeautifulSoup

    pages = {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in HTML.rglob("*.html")}
    anchors = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    dead = []
    for path, page in pages.items():
        for tag in page.find_all("a", href=True):
            place, _, anchor = tag["href"].partition("#")
            target = (path.parent / place).resolve() if place else path
            if ":" in place or place.startswith("/"):
                continue
            if not target.exists() or (anchor and target in anchors and unquote(anchor) not in anchors[target]):
                dead.append(f"{path.relative_to(HTML)}: {tag['href']}")
    assert dead == []
