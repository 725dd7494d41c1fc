"""The built pages, in a browser that reaches nothing else: each in both themes, at two widths."""

import ast
import functools
import html
import json
import os
import re
import shutil
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
SITE = ROOT / "_build" / "html"
CI = bool(os.environ.get("CI"))
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
THEMES = ("light", "dark")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
RAW_MARKUP = re.compile(
    r"\$|\\\(|\\\[|\\begin\{|:::|```|\{(?:prf|cite|glue|ref|eq|numref|term|doc|math|mod|func|class)\b"
)


def pages():
    """The pages of the last build. Those of earlier builds may still lie beside them."""
    index = SITE / "searchindex.js"
    if not index.exists():
        return ["not built"]
    documents = json.loads(re.search(r'"docnames":\s*(\[.*?\])', index.read_text("utf-8"))[1])
    generated = ["genindex", "prf-prf", "py-modindex", "search"]
    sources = (SITE / "_modules").rglob("*.html")
    generated += [path.relative_to(SITE).with_suffix("").as_posix() for path in sources]
    return documents + sorted(generated)


PAGES = pages()


@pytest.fixture(scope="module", autouse=True)
def _built():
    """The pages must exist; `make test` builds them before it comes here."""
    if PAGES == ["not built"]:
        message = "no pages in _build/html: type make book"
        pytest.fail(message) if CI else pytest.skip(message)


@pytest.fixture(scope="module")
def address():
    """Where the pages are served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests."""
    if CHROMIUM is None:
        message = "no Chromium here: install chromium to test the built pages"
        pytest.fail(message) if CI else pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page that is open, and what went wrong while it was."""

    def __init__(self, browser, address, theme="light", size=DESKTOP):
        self.context = browser.new_context(viewport=size, color_scheme=theme)
        self.context.add_init_script(
            f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}');"
        )
        self.context.add_init_script(path=Path(__file__).with_name("look.js"))
        self.page = self.context.new_page()
        self.address = address
        self.troubles = []
        note = self.troubles.append
        self.page.on("pageerror", lambda error: note(f"script: {error}"))
        self.page.on("console", lambda m: m.type == "error" and note(f"console: {m.text}"))
        self.page.on("requestfailed", lambda request: note(f"failed: {request.url}"))
        self.page.on("response", lambda r: r.status >= 400 and note(f"{r.status}: {r.url}"))
        self.page.on("request", self.is_ours)

    def is_ours(self, request):
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.troubles.append(f"goes elsewhere: {request.url}")

    def open(self, name):
        self.page.goto(f"{self.address}{name}")
        self.page.evaluate("book.ready()")
        return self.page

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", PAGES)
def test_page(browser, address, name, theme):
    with Visit(browser, address, theme) as visit:
        page = visit.open(f"{name}.html")
        facts = page.evaluate("book.facts()")
        assert visit.troubles == [], name
        assert facts["title"].strip(), f"{name} has no title"
        assert facts["language"] == "en", name
        assert facts["headings"] == 1, f"{name} has {facts['headings']} headings of the first level"
        assert facts["unset"] == [], f"{name}: mathematics not set"
        assert facts["errors"] == [], f"{name}: mathematics with errors"
        raw = [
            facts["text"][max(0, m.start() - 40) : m.end() + 40]
            for m in RAW_MARKUP.finditer(facts["text"])
        ]
        assert raw == [], f"{name} shows markup"
        assert facts["silent"] == [], f"{name}: pictures without words"
        assert facts["broken"] == [], f"{name}: pictures that do not load"
        assert len(facts["light"]) == len(facts["dark"]), name
        assert all(shown == (theme == "light") for shown in facts["light"]), name
        assert all(shown == (theme == "dark") for shown in facts["dark"]), name
        assert page.evaluate("book.pale()") == [], f"{name}: too little contrast"
        for size in (DESKTOP, PHONE):
            page.set_viewport_size(size)
            assert page.evaluate("book.wide()") == [], (
                f"{name} is wider than {size['width']} pixels"
            )
        assert visit.troubles == [], name


def test_front_door(browser, address):
    with Visit(browser, address) as visit:
        visit.page.goto(address)
        visit.page.wait_for_url("**/book/index.html")
        assert visit.troubles == []


def test_paper_is_light(browser, address):
    with Visit(browser, address, "dark") as visit:
        page = visit.open("book/simple-case.html")
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        facts = page.evaluate("book.facts()")
        assert all(facts["light"])
        assert not any(facts["dark"])
        assert page.evaluate("book.pale()") == []
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_theme_button_changes_the_pictures(browser, address):
    with Visit(browser, address, "light") as visit:
        page = visit.open("book/simple-case.html")
        for _ in range(3):  # its three states: light, dark, as the system
            if page.evaluate("document.documentElement.dataset.theme") == "dark":
                break
            page.locator(".theme-switch-button:visible").first.click()
        facts = page.evaluate("book.facts()")
        assert not any(facts["light"])
        assert all(facts["dark"])


def test_keyboard_reaches_the_text_first_and_sees_where_it_is(browser, address):
    with Visit(browser, address) as visit:
        page = visit.open("book/simple-case.html")
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            "return [e.getAttribute('href'), s.outlineStyle, parseFloat(s.outlineWidth)]; }"
        )
        assert focused == ["#main-content", "solid", 2]
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#main-content"


def test_what_scrolls_can_be_reached_by_keyboard(browser, address):
    with Visit(browser, address, size=PHONE) as visit:
        page = visit.open("book/simple-case.html")
        page.wait_for_function("document.querySelector('main [tabindex=\"0\"]')")
        unreachable = page.evaluate(
            """() => [...document.querySelectorAll("div.math mjx-container, .ntk-table")]
              .filter(e => e.scrollWidth > e.clientWidth && e.tabIndex < 0).length"""
        )
        assert unreachable == 0


def test_a_link_to_a_test_opens_it(browser, address):
    with Visit(browser, address) as visit:
        page = visit.open("book/simple-case.html")
        page.locator(".ntk-checked a").first.click()
        page.wait_for_url("**/claims.html#*")
        target = page.locator(page.evaluate("location.hash"))
        target.wait_for(state="visible")
        assert "def test_" in target.inner_text()
        assert visit.troubles == []


def test_search_finds(browser, address):
    with Visit(browser, address) as visit:
        page = visit.open("search.html?q=tangent")
        page.wait_for_selector("#search-results li a")
        assert visit.troubles == []


# The files themselves, without a browser.


class Anchors(HTMLParser):
    """All ids and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if tag == "a" and attributes.get("href") else []


@functools.cache
def anchors(name):
    return Anchors((SITE / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PAGES)
def test_links_within_the_book_lead_somewhere(name):
    here = f"{name}.html"
    repeated = {i for i in anchors(here).ids if anchors(here).ids.count(i) > 1}
    assert repeated == set(), f"{name}: ids that occur twice"
    dead = []
    for link in anchors(here).links:
        if re.match(r"[a-z]+:", link):
            continue
        path, fragment = urldefrag(urljoin(f"/{here}", link))
        target = unquote(path.split("?")[0]).lstrip("/")
        alive = (SITE / target).is_file()
        if alive and fragment and target.endswith(".html"):
            alive = unquote(fragment) in anchors(target).ids
        if not alive:
            dead.append(link)
    assert dead == [], f"{name}: dead links"


@pytest.mark.parametrize("path", sorted((ROOT / "book").rglob("*.ipynb")), ids=lambda p: p.stem)
def test_sentences_show_numbers_as_they_were_glued(path):
    page = SITE / path.relative_to(ROOT).with_suffix(".html")
    if not page.exists():
        pytest.skip("not in the table of contents")
    glued = set()
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            for kind, text in output.get("data", {}).items():
                if kind.startswith("application/papermill.record"):
                    text = "".join(text)
                    # A quoted text is unquoted by MyST-NB, as it would any other Python literal.
                    glued.add(ast.literal_eval(text) if text[:1] in "'\"" else text)
    shown = re.findall(r'<span class="pasted-text">(.*?)</span>', page.read_text(encoding="utf-8"))
    assert {html.unescape(text) for text in shown} <= glued
