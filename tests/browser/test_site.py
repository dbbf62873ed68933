"""The built site as a reader sees it: offline, on a wide screen and on a telephone, light and dark."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "tools"))

import address  # noqa: E402

CONTENTS = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
PAGES = [CONTENTS["root"]] + [entry["file"] for part in CONTENTS["parts"] for entry in part["chapters"]]
CHAPTERS = [page for page in PAGES if re.match(r"\d\d_", page)]
EXPLORER = ".minirsa-explorer"

# The theme's own, harmless, and on every page with a launch button.
KNOWN_MESSAGES = re.compile(r"THEBE_JS_URL.*already been declared")


def scroll_through(page):
    """Let everything that loads on sight load."""
    page.evaluate(
        """async () => {
          for (let y = 0; y < document.body.scrollHeight; y += 600) {
            window.scrollTo(0, y);
            await new Promise(done => setTimeout(done, 15));
          }
          window.scrollTo(0, 0);
        }"""
    )


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole_without_any_other_server(visit, name):
    """No error in the console, every picture loaded and seen, every formula typeset, nothing missed elsewhere."""
    seen = visit(f"{name}.html")
    scroll_through(seen.page)
    seen.page.wait_for_load_state("networkidle")
    images = seen.page.evaluate(
        """() => [...document.querySelectorAll('.bd-article img, .navbar-brand img')].map(image => ({
          source: image.currentSrc.slice(0, 100), loaded: image.complete && image.naturalWidth > 0,
          width: image.getBoundingClientRect().width, alt: image.alt}))"""
    )
    # One of the logo's two pictures (light and dark) is hidden; nothing in the text is.
    assert images
    assert not [image for image in images if not image["loaded"]]
    assert not [image for image in images if image["width"] == 0 and "logo" not in image["source"]]
    assert not [image for image in images if not image["alt"]]
    raw = seen.page.evaluate(
        """() => [...document.querySelectorAll('.bd-article .math')]
          .filter(formula => !formula.querySelector('mjx-container svg')).map(formula => formula.textContent)"""
    )
    assert not raw
    refused = seen.page.evaluate(
        """() => [...document.querySelectorAll('.bd-article mjx-container [data-mjx-error]')]
          .map(formula => formula.getAttribute('data-mjx-error') + ': ' + formula.closest('.math').textContent)"""
    )
    assert not refused  # what MathJax draws in red on yellow
    assert not [message for message in seen.messages if not KNOWN_MESSAGES.search(message)]
    assert not seen.refused


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_has_formulas_and_figures(visit, name):
    page = visit(f"{name}.html").page
    assert page.locator(".bd-article mjx-container svg").count() > 5
    assert page.locator(".bd-article .cell_output img").count() >= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_a_telephone(visit, name, scheme):
    page = visit(f"{name}.html", width=360, height=740, scheme=scheme).page
    scroll_through(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    # What is wider may stand only inside something that scrolls by itself (or is tucked away beside the screen).
    wide = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article *')].filter(element => {
          const box = element.getBoundingClientRect();
          if (box.width === 0 || box.right <= 361) return false;
          for (let up = element; up && !up.matches('.bd-article'); up = up.parentElement) {
            const style = getComputedStyle(up);
            if (style.overflowX !== 'visible' && up.getBoundingClientRect().right <= 361) return false;
            if (style.visibility === 'hidden' || up.closest('mjx-assistive-mml')) return false;
          }
          return true;
        }).map(element => element.outerHTML.slice(0, 120))"""
    )
    assert not wide
    # What scrolls begins at its beginning.
    cut = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article div.math')].filter(formula => {
          const drawn = formula.querySelector('mjx-container svg');
          return drawn && drawn.getBoundingClientRect().left < formula.getBoundingClientRect().left - 1;
        }).map(formula => formula.textContent.slice(0, 80))"""
    )
    assert not cut
    # What is wider is not hidden: formulas in a line, links to the chapters before and after.
    hidden = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article span.math, .prev-next-area a')].filter(element => {
          const inside = element.querySelector('svg, .prev-next-title');
          const over = inside && inside.getBoundingClientRect().right > element.getBoundingClientRect().right + 1;
          return over && getComputedStyle(element).overflowX === 'hidden';
        }).map(element => element.textContent.slice(0, 80))"""
    )
    assert not hidden
    outside = page.evaluate(
        """() => [...document.querySelectorAll('.minirsa-figure *')].filter(element => {
          const box = element.getBoundingClientRect();
          const figure = element.closest('.minirsa-figure').getBoundingClientRect();
          return box.width && box.right > figure.right + 1 && !element.closest('.mx-scroll');
        }).map(element => element.outerHTML.slice(0, 120))"""
    )
    assert not outside


@pytest.mark.parametrize("name", PAGES)
def test_a_desk_screen_shows_every_equation_whole(visit, name):
    """What hangs over scrolls, but takes the equation's number out of sight."""
    page = visit(f"{name}.html", width=1280).page
    cut = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article div.math')].map(formula => {
          const drawn = formula.querySelector('mjx-container svg');
          const over = drawn ? drawn.getBoundingClientRect().right - formula.getBoundingClientRect().right : 0;
          return [Math.round(over), formula.querySelector('mjx-assistive-mml')?.textContent.slice(0, 60)];
        }).filter(([over]) => over > 1)"""
    )
    assert not cut


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_desk_screen_shows_code_of_88_characters_whole(visit, name):
    """1265 pixels: a window of 1280 and its scroll bar."""
    page = visit(f"{name}.html", width=1265).page
    widths = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article div.cell_input pre')].filter(code =>
          !code.closest('details') && Math.max(...code.textContent.split('\\n').map(line => line.length)) <= 88
        ).map(code => {
          const range = document.createRange();
          range.selectNodeContents(code);
          return range.getBoundingClientRect().right - code.getBoundingClientRect().right;
        })"""
    )
    assert widths
    assert max(widths) <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_text_can_be_read_in_light_and_dark(visit, name, scheme):
    """Contrast of at least 4.5 (WCAG AA) between text and what lies behind it."""
    page = visit(f"{name}.html", scheme=scheme).page
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    poor = page.evaluate(
        """() => {
          const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
          const rgba = colour => {
            canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
          };
          const luminance = ([r, g, b]) => {
            const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
            const [x, y, z] = [r, g, b].map(v => linear(v / 255));
            return .2126 * x + .7152 * y + .0722 * z;
          };
          const behind = element => {
            for (let up = element; up; up = up.parentElement) {
              const colour = rgba(getComputedStyle(up).backgroundColor);
              if (colour[3] > 200) return colour;
            }
            return [255, 255, 255, 255];
          };
          const poor = new Set();
          const skipped = 'mjx-container, script, style, .minirsa-explorer *, .minirsa-animation *, .headerlink, svg *';
          for (const element of document.querySelectorAll('.bd-article *')) {
            const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
            if (!own || element.closest(skipped) || !element.getClientRects().length) continue;
            const [light, dark] = [luminance(rgba(getComputedStyle(element).color)), luminance(behind(element))]
              .sort((a, b) => b - a);
            const contrast = (light + .05) / (dark + .05);
            if (contrast < 4.5) poor.add(`${element.tagName}.${element.className}: ${contrast.toFixed(2)}`);
          }
          return [...poor];
        }"""
    )
    assert not poor


def test_site_has_its_own_name_logo_and_parts(visit):
    page = visit("index.html").page
    assert "From Attention to Relational Self-Attention" in page.title()
    assert "logo" in page.locator(".navbar-brand img").first.get_attribute("src")
    parts = page.locator(".bd-sidebar-primary .caption-text").all_inner_texts()
    assert parts == [part["caption"] for part in CONTENTS["parts"]]
    links = page.locator(".bd-sidebar-primary nav.bd-links a.reference.internal")
    assert links.count() == len(PAGES) - 1 + page.locator(".bd-sidebar-primary a:has-text('Welcome')").count()


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_can_be_opened_in_colab(visit, name):
    """By the badge in the text and by the button above it, both at the one public address."""
    page = visit(f"{name}.html").page
    wanted = address.colab_link(f"{name}.ipynb")
    assert page.locator(".bd-article a.colab-badge").get_attribute("href") == wanted
    assert page.locator(f'.bd-header-article a[href="{wanted}"]').count() == 1


def test_theme_button_turns_the_page_dark(visit):
    page = visit("index.html").page
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    button = page.locator("button.theme-switch-button").first
    for _ in range(3):
        button.click()
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_search_finds_a_word_of_the_glossary(visit):
    page = visit("search.html?q=neighbourhood").page
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li a").count() >= 1


needs_make = pytest.mark.skipif(not (ROOT / ".venv" / "ready").exists(), reason="not set up by make")


@needs_make
def test_make_book_ends_with_the_path_of_the_start_page(site):
    done = subprocess.run(["make", "book"], cwd=ROOT, capture_output=True, text=True, check=True)
    last = done.stdout.strip().splitlines()[-1]
    assert Path(last.split()[-1]) == ROOT / "_build" / "html" / "index.html"
    assert "pip" not in done.stdout


@needs_make
def test_make_serve_serves_the_start_page_on_localhost(site):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["make", "serve", f"PORT={port}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        page = None
        while page is None and time.monotonic() < deadline and server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    page = answer.read().decode()
            except OSError:
                time.sleep(0.3)
        assert page is not None
        assert "From Attention to Relational Self-Attention" in page
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)


class TestExplorer:
    """The figure of chapter 13 in which a reader picks a point and a frame; there is no kernel behind it."""

    PAGE = "13_rsa.html"

    @pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")])
    def test_reacts_to_a_click_and_to_a_drag(self, visit, width, scheme):
        seen = visit(self.PAGE, width=width, height=900, scheme=scheme)
        page = seen.page
        explorer = page.locator(EXPLORER).first
        target = explorer.locator("canvas.mx-frame").first
        target.evaluate(
            "canvas => canvas.scrollIntoView({block: 'center', behavior: 'instant'})"
        )  # clear of the page's own header
        box = target.bounding_box()
        state = explorer.get_attribute("data-state")
        assert state

        page.mouse.click(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
        clicked = explorer.get_attribute("data-state")
        assert clicked != state

        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
        halfway = explorer.get_attribute("data-state")
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.8 * box["height"], steps=4)
        page.mouse.up()
        dragged = explorer.get_attribute("data-state")
        assert len({clicked, halfway, dragged}) == 3

        page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"])
        assert explorer.get_attribute("data-state") == dragged, "it moves without a button pressed"
        assert not [message for message in seen.messages if not KNOWN_MESSAGES.search(message)]

    def test_what_is_drawn_changes_with_the_point(self, visit):
        page = visit(self.PAGE).page
        explorer = page.locator(EXPLORER).first
        explorer.scroll_into_view_if_needed()
        box = explorer.locator("canvas.mx-frame").first.bounding_box()
        before = explorer.screenshot()
        page.mouse.click(box["x"] + 0.15 * box["width"], box["y"] + 0.85 * box["height"])
        assert explorer.screenshot() != before


def drag(page, box, points):
    """Press at the first of some places (x, y as fractions of a box), go through the others, let go at the last."""
    x, y = points[0]
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.mouse.down()
    for x, y in points[1:]:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
    page.mouse.up()


READERS = [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")]


class TestAttentionExplorer:
    """The figure of chapter 2 in which a reader moves the query patch and sees its weights under three divisors."""

    PAGE = "02_self_attention.html"

    @pytest.mark.parametrize(("width", "scheme"), READERS)
    def test_the_weights_follow_the_query(self, visit, width, scheme):
        seen = visit(self.PAGE, width=width, scheme=scheme)
        page, figure = seen.page, seen.page.locator(".minirsa-attention").first
        picture = figure.locator("canvas.mx-frame")
        picture.evaluate("canvas => canvas.scrollIntoView({block: 'center', behavior: 'instant'})")
        box, state = picture.bounding_box(), figure.get_attribute("data-state")
        numbers = figure.locator(".mx-numbers").all_inner_texts()
        drag(page, box, [(0.2, 0.2)])
        clicked = figure.get_attribute("data-state")
        drag(page, box, [(0.2, 0.2), (0.5, 0.5), (0.8, 0.8)])
        dragged = figure.get_attribute("data-state")
        page.keyboard.press("ArrowLeft")
        assert len({state, clicked, dragged, figure.get_attribute("data-state")}) == 4
        assert figure.locator(".mx-numbers").all_inner_texts() != numbers
        assert not [message for message in seen.messages if not KNOWN_MESSAGES.search(message)]

    def test_without_a_divisor_few_patches_are_seen_and_with_d_nearly_all(self, visit):
        figure = visit(self.PAGE).page.locator(".minirsa-attention").first
        texts = figure.locator(".mx-numbers").all_inner_texts()
        spreads = [float(re.search(r"\u2248 ([\d.]+) of", text)[1]) for text in texts]
        assert len(spreads) == 3
        assert spreads[0] < spreads[1] < spreads[2]

    def test_the_list_chooses_what_lies_on_the_picture(self, visit):
        figure = visit(self.PAGE).page.locator(".minirsa-attention").first
        picture = figure.locator("canvas.mx-frame")
        looks = set()
        for i in range(4):
            figure.locator("select").select_option(index=i)
            looks.add(picture.evaluate("canvas => canvas.toDataURL()"))
        assert len(looks) == 4


class TestAlignmentMap:
    """The figures of chapter 1 in which a reader points at an output word and sees the input words it looked at."""

    PAGE = "01_luong_attention.html"

    @pytest.mark.parametrize(("width", "scheme"), READERS)
    def test_every_map_shows_what_each_output_word_looked_at(self, visit, width, scheme):
        seen = visit(self.PAGE, width=width, scheme=scheme)
        figures = seen.page.locator(".minirsa-alignment")
        assert figures.count() >= 2
        for figure in figures.all():
            chips = figure.get_by_role("radio")
            chips.last.scroll_into_view_if_needed()
            chips.last.click()
            last = figure.locator(".mx-bar span").evaluate_all("bars => bars.map(bar => bar.style.width)")
            assert figure.get_attribute("data-state").startswith(f"example=0 target={chips.count() - 1} ")
            chips.last.press("Home")
            first = figure.locator(".mx-bar span").evaluate_all("bars => bars.map(bar => bar.style.width)")
            assert " target=0 " in figure.get_attribute("data-state")
            assert first != last
            view = figure.locator(".mx-scroll").bounding_box()
            assert view["x"] >= 0
            assert view["x"] + view["width"] <= width
        assert not [message for message in seen.messages if not KNOWN_MESSAGES.search(message)]

    def test_korean_words_stand_there_in_hangul_with_a_gloss(self, visit):
        tokens = visit(self.PAGE).page.locator(".minirsa-alignment").first.locator(".mx-tokens").first
        words, gloss = tokens.locator("b").all_inner_texts(), tokens.locator("i").all_inner_texts()
        assert any("\uac00" <= letter <= "\ud7a3" for letter in "".join(words))
        assert len(gloss) == len(words)
        assert all(word.isascii() for word in gloss)


class TestLandingFigure:
    """The moving figure of the start page."""

    def test_moves_and_can_be_stopped(self, visit):
        page = visit("index.html").page
        figure = page.locator(".minirsa-animation").first
        figure.scroll_into_view_if_needed()
        first = figure.screenshot()
        page.wait_for_timeout(1200)
        assert figure.screenshot() != first
        figure.locator("button").first.click()
        page.wait_for_timeout(200)
        assert figure.get_attribute("data-state").startswith("paused")
        stopped = figure.screenshot()
        page.wait_for_timeout(1000)
        assert figure.screenshot() == stopped

    def test_stands_still_for_a_reader_who_asked_for_that(self, browser, site):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        page = context.new_page()
        page.goto(f"{site}/index.html")
        figure = page.locator(".minirsa-animation").first
        figure.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        first = figure.screenshot()
        page.wait_for_timeout(1000)
        assert figure.screenshot() == first
        context.close()
