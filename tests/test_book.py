"""The built book in a real browser: every page from disk, three of them in every way that people read.

Run by `make test` when Chromium and a built book are to be had, and by `.ci/run` after `make book`.
"""

import gzip
import itertools
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tools.serve import serving
from tools.surroundings import HOME, chapters, chromium

HTML = HOME / "_build" / "html"
PAGES = [f"notebooks/{path.stem}.html" for path in chapters("")]
PAGES += [f"book/{path.stem}.html" for path in sorted((HOME / "book").glob("*.md"))]
THREE = ("book/intro.html", "book/claims.html", "notebooks/12_convolutions.html")
DESKTOP, PHONE = 1280, 390
PICTURES = {".png", ".gif", ".jpg", ".svg", ".webp"}
COMPRESSED = {".png", ".gif", ".jpg", ".webp", ".woff2"}
MAX_KB, MAX_KB_WITH_PICTURES = 300, 1500
# Thousands of equal words would take axe most of its time: the third one of a kind loses its colour.
FEWER_COLOURED_WORDS = """() => {
  const seen = {};
  const words = [...document.querySelectorAll('div.highlight pre span')];
  const third = words.filter(word => {
    if (word.children.length || !word.checkVisibility()) return false;
    const kind = word.className + ' in ' + word.closest('.cell_input, .cell_output, .highlight').className;
    seen[kind] = (seen[kind] || 0) + 1;
    return seen[kind] > 2;
  });
  for (const word of third) word.replaceWith(word.textContent);
}"""

pytestmark = [
    pytest.mark.skipif(chromium() is None, reason="no Chromium here"),
    pytest.mark.skipif(not (HTML / "index.html").exists(), reason="the book is not built: run `make book`"),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        program = playwright.chromium.launch(executable_path=chromium(), args=[*quiet, "--disable-sync"])
        yield program
        program.close()


class Tab:
    """A page that was opened, with all that it asked for and complained of."""

    def __init__(self, browser, address, width=DESKTOP, theme="light"):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", lambda request: self.errors.append(f"not found: {request.url}"))
        self.page.goto(address, wait_until="load")
        # Pictures are loaded when they come into view; here, all at once.
        self.page.evaluate("for (const picture of document.images) picture.loading = 'eager'")
        self.page.evaluate("Promise.all([...document.images].map(picture => picture.decode().catch(() => {})))")
        # What is out of sight is laid out when it comes into view; here, all at once too.
        self.page.add_style_tag(content="* { content-visibility: visible !important }")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.page.close()

    def stands_alone(self, here: str):
        """Nothing from outside, no complaint, every picture there and described."""
        local = (here, "data:", "blob:")
        assert [url for url in self.requests if not url.startswith(local)] == []
        assert self.errors == []
        missing = "[...document.images].filter(i => !(i.complete && i.naturalWidth) || !i.alt).map(i => i.src)"
        assert self.page.evaluate(missing) == []

    def fits(self):
        """No page-wide horizontal scroll, and no equation wider than its place."""
        assert self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        wide = "[...document.querySelectorAll('div.math')].filter(d => d.scrollWidth > d.clientWidth + 1)"
        assert self.page.evaluate(f"{wide}.map(d => d.textContent)") == [], "split these equations"

    def shows_whole_lines(self):
        """No line of code or of output is cut off."""
        wide = "[...document.querySelectorAll('.bd-article pre')].filter(pre => pre.scrollWidth > pre.clientWidth + 1)"
        assert self.page.evaluate(f"{wide}.map(pre => pre.textContent)") == [], "shorten these lines"

    def is_accessible(self):
        """No violation of axe's rules; of each kind of coloured word in code, the first two are judged."""
        from axe_playwright_python.sync_playwright import Axe

        self.page.evaluate(FEWER_COLOURED_WORDS)
        found = Axe().run(self.page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]] == []


@pytest.mark.parametrize("page", PAGES)
def test_page(browser, page):
    with Tab(browser, (HTML / page).as_uri()) as tab:
        tab.stands_alone("file:")
        math_is_drawn(tab.page)
        tab.is_accessible()
        tab.fits()
        tab.shows_whole_lines()
        tab.page.set_viewport_size({"width": PHONE, "height": 900})
        tab.fits()
        text, pictures = weights(tab.requests)
        assert text <= MAX_KB
        assert text + pictures <= MAX_KB_WITH_PICTURES


def math_is_drawn(page):
    """Every equation is a picture whose letters are there, with MathML beside it; no script makes them."""
    n_math = page.locator("span.math, div.math").count()
    assert page.locator("mjx-container > svg").count() == page.locator("mjx-container math").count() == n_math
    assert page.locator("merror").count() == 0
    used = page.evaluate("[...document.querySelectorAll('mjx-container use')].map(use => use.getAttribute('href'))")
    outlines = page.evaluate("[...document.querySelectorAll('path[id]')].map(path => '#' + path.id)")
    assert set(used) <= set(outlines)
    assert page.evaluate("typeof MathJax") == "undefined"


def weights(requests) -> tuple[float, float]:
    """Return kilobytes of text and of pictures, text compressed as a web host would."""
    text = pictures = 0
    for file in {Path(unquote(urlsplit(url).path)) for url in requests if url.startswith("file:")}:
        content = file.read_bytes()
        size = len(content if file.suffix in COMPRESSED else gzip.compress(content, 6)) / 1000
        if file.suffix in PICTURES:
            pictures += size
        else:
            text += size
    return text, pictures


@pytest.fixture(scope="module")
def places():
    """The two ways to read: from disk, and from a web server."""
    with serving(HTML) as address:
        yield {"disk": HTML.as_uri(), "http": address}


WAYS = itertools.product(THREE, ("light", "dark"), (DESKTOP, PHONE), ("disk", "http"))


@pytest.mark.parametrize(("page", "theme", "width", "place"), WAYS)
def test_every_way_of_reading(browser, places, page, theme, width, place):
    with Tab(browser, f"{places[place]}/{page}", width, theme) as tab:
        assert tab.page.evaluate("document.documentElement.dataset.theme") == theme
        tab.stands_alone(places[place] if place == "http" else "file:")
        tab.fits()
        if place == "disk":  # the same page comes by both ways
            tab.is_accessible()


@pytest.mark.parametrize("place", ["disk", "http"])
def test_the_search_finds_pages(browser, places, place):
    page = browser.new_page()
    page.goto(f"{places[place]}/search.html?q=momentum")
    page.wait_for_selector("#search-results li a")
    found = page.evaluate("[...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'))")
    page.close()
    assert any("07_autograd_and_optimizers.html" in link for link in found)


class Anchors(HTMLParser):
    """The anchors of a page, and what it links to."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])


def test_links_and_anchors_inside_the_book_lead_somewhere():
    pages = {path: Anchors(path) for path in HTML.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            place, _, anchor = link.partition("#")
            target = (path.parent / place).resolve() if place else path
            if ":" in place or place.startswith("/"):
                continue
            if not target.exists() or (anchor and target in pages and unquote(anchor) not in pages[target].ids):
                dead.append(f"{path.relative_to(HTML)}: {link}")
    assert dead == []


def test_addresses_are_stable():
    """Links from elsewhere must go on working: an address may be added to the list, none may go away."""
    promised = (HOME / "tests" / "pages.txt").read_text(encoding="utf-8").split()
    built = {path.relative_to(HTML).as_posix() for path in HTML.rglob("*.html")}
    assert [page for page in promised if page not in built] == []
    assert [page for page in PAGES if page not in promised] == [], "add these to tests/pages.txt"
