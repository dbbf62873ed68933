"""The self-contained figures in a real browser, from a file, with the network refused: no kernel, no server."""

import os
import re
import shutil

import pytest
from playwright.sync_api import sync_playwright

from minirsa.viz import KernelExplorer, kernel_animation

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium: install the Debian package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens HTML as a page; on leaving, nothing may have been logged or asked of the network."""
    opened, complaints = [], []

    def open_(body, *, width=800, head="", html="<html>", **options):
        path = tmp_path / f"page{len(opened)}.html"
        meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        path.write_text(
            f"<!doctype html>{html}<head>{meta}{head}</head><body style='margin:8px'>{body}</body></html>",
            encoding="utf-8",
        )
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        opened.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url))
        page.goto(path.as_uri())
        return page

    yield open_
    for page in opened:
        page.close()
    assert complaints == []


@pytest.fixture(scope="module")
def explorer(scene):
    return KernelExplorer(*scene, caption="A caption.").html()


@pytest.fixture(scope="module")
def animation(scene):
    clip, fields, backwards, reversed_fields = scene
    return kernel_animation(clip, backwards, fields, reversed_fields, (0.5, 0.5), caption="It moves.")


def ready(page, kind="explorer", count=1):
    page.wait_for_function(
        f"document.querySelectorAll('.minirsa-{kind}:not([data-state=static])').length === {count}", timeout=10_000
    )
    return page.locator(f".minirsa-{kind}")


def state(figure):
    return dict(re.findall(r"(\w+)=(\w+)", figure.get_attribute("data-state")))


def pixels(canvas, spots):
    """The colours at fractions (x, y) of a canvas, read from a copy of it."""
    return canvas.evaluate(
        """(canvas, spots) => {
            const copy = document.createElement("canvas");
            [copy.width, copy.height] = [canvas.width, canvas.height];
            const context = copy.getContext("2d", { willReadFrequently: true });
            context.drawImage(canvas, 0, 0);
            const read = ([x, y]) => context.getImageData(x * copy.width, y * copy.height, 1, 1).data;
            return spots.map((spot) => [...read(spot)].slice(0, 3));
        }""",
        spots,
    )


def brightness(rgb):
    return sum(rgb) / 3


def test_click_drag_and_keys_move_the_point(explorer, open_page):
    page = open_page(explorer)
    figure = ready(page)
    assert state(figure) == {"frame": "3", "row": "3", "column": "4", "shown": "relational"}
    picture = figure.locator("canvas.mx-frame").first
    box = picture.bounding_box()

    def at(row, column):
        return box["x"] + (column + 0.5) / 8 * box["width"], box["y"] + (row + 0.5) / 6 * box["height"]

    page.mouse.click(*at(1, 2))
    assert (state(figure)["row"], state(figure)["column"]) == ("1", "2")
    page.mouse.move(*at(1, 2))
    page.mouse.down()
    page.mouse.move(*at(3, 5), steps=4)
    assert (state(figure)["row"], state(figure)["column"]) == ("3", "5")
    page.mouse.move(box["x"] - 40, box["y"] - 20)
    page.mouse.up()
    assert (state(figure)["row"], state(figure)["column"]) == ("0", "0"), "dragged off the picture: its nearest cell"
    page.mouse.move(*at(4, 4))
    assert state(figure)["row"] == "0", "the button is up"

    for key, name, value in [
        ("ArrowDown", "row", "1"),
        ("ArrowRight", "column", "1"),
        ("ArrowUp", "row", "0"),
        ("ArrowUp", "row", "0"),
        ("ArrowLeft", "column", "0"),
        ("PageDown", "frame", "4"),
        ("PageUp", "frame", "3"),
    ]:
        page.keyboard.press(key)
        assert state(figure)[name] == value, key
    assert picture.evaluate("c => getComputedStyle(c).outlineStyle") == "solid"


def test_either_picture_moves_the_point_and_touch_does_too(explorer, open_page):
    page = open_page(explorer, has_touch=True)
    figure = ready(page)
    box = figure.locator("canvas.mx-frame").nth(1).bounding_box()
    page.touchscreen.tap(box["x"] + 0.95 * box["width"], box["y"] + 0.95 * box["height"])
    assert (state(figure)["row"], state(figure)["column"]) == ("5", "7")


def test_slider_list_and_maps_choose_what_is_shown(explorer, open_page):
    page = open_page(explorer)
    figure = ready(page)
    figure.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    assert state(figure)["frame"] == "4"
    titles = figure.locator(".mx-title").all_inner_texts()
    assert titles == ["Forwards frame 5 of 6", "Backwards frame 2 of 6"]
    figure.locator("select").select_option(label="attention")
    assert state(figure)["shown"] == "attention"
    figure.get_by_label("basic, forwards: one map a step in time").click()
    assert state(figure)["shown"] == "basic"
    assert "frame 5 of 6" in figure.locator(".mx-say[role=status]").inner_text()


def test_maps_show_the_numbers_of_the_point(scene, open_page):
    """Compares drawn colours with the arrays: both ways of storing, both directions, after moving."""
    made = KernelExplorer(*scene, caption="")
    page = open_page(made.html(), color_scheme="light")
    figure = ready(page)
    for _ in range(2):
        figure.locator("canvas.mx-frame").first.press("ArrowDown")
    figure.locator("select").select_option(label="nothing")
    place = {name: int(value) for name, value in state(figure).items() if value.isdigit()}
    assert place == {"frame": 3, "row": 5, "column": 4}
    ends = {-1: (0x18, 0x64, 0xAB), 1: (0xD9, 0x48, 0x0F)}
    for direction, words in enumerate(["forwards", "backwards"]):
        t = (3, 2)[direction]
        for name in ("basic", "relational", "attention"):
            canvas = figure.get_by_label(f"{name}, {words}: one map a step in time")
            kernel = made.fields[direction][name][t, 5, 4] / made.scales[name]
            width = canvas.evaluate("c => c.clientWidth")
            for step, y, x in [(0, 1, 1), (1, 2, 0), (1, 3, 2), (2, 4, 1)]:
                value = float(kernel[step, y, x].clip(-1, 1))
                side = (width - 8) / 3
                (drawn,) = pixels(canvas, [((step * (side + 4) + (x + 0.5) * side / 3) / width, (y + 0.5) / 5)])
                end = ends[1 if value >= 0 else -1]
                expected = [255 + (c - 255) * abs(value) for c in end]
                assert drawn == pytest.approx(expected, abs=12), (words, name, step, y, x)


def test_both_pictures_show_the_same_moment(explorer, open_page):
    figure = ready(open_page(explorer))
    figure.locator("select").select_option(label="nothing")
    for step in range(3):
        first, second = (figure.locator("canvas.mx-frame").nth(i) for i in (0, 1))
        spots = [(0.1, 0.1), (0.45, 0.2), (0.45, 0.95), (0.9, 0.6)]
        assert pixels(first, spots) == pixels(second, spots), step
        first.press("PageDown")


@pytest.mark.parametrize(
    ("system", "html", "dark"),
    [
        ("light", "<html>", False),
        ("dark", "<html>", True),
        ("dark", "<html data-theme='light'>", False),
        ("light", "<html data-theme='dark'>", True),
        ("light", "<html theme='dark'>", True),
    ],
)
def test_colours_follow_the_site_then_the_system(explorer, open_page, system, html, dark):
    figure = ready(open_page(explorer, html=html, color_scheme=system))
    background = figure.evaluate("f => getComputedStyle(f).backgroundColor")
    assert background == ("rgb(20, 24, 31)" if dark else "rgb(255, 255, 255)")


def test_maps_are_redrawn_when_the_theme_changes(explorer, open_page):
    page = open_page(explorer, color_scheme="light")
    figure = ready(page)
    maps = figure.get_by_label("attention, forwards: one map a step in time")
    spots = [(x / 20, y / 20) for x in range(1, 20) for y in range(1, 20)]

    def mean():
        return sum(map(brightness, pixels(maps, spots))) / len(spots)

    light = mean()
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(100)
    assert mean() < light - 40


@pytest.mark.parametrize("kind", ["explorer", "animation"])
def test_fits_a_small_screen(explorer, animation, open_page, kind):
    page = open_page(explorer if kind == "explorer" else animation, width=360)
    figure = ready(page, kind)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for canvas in figure.locator("canvas").all():
        box = canvas.bounding_box()
        assert box["width"] > 60
        assert box["x"] + box["width"] <= 352
    first, second = (figure.locator("canvas.mx-frame").nth(i).bounding_box() for i in (0, 1))
    stacked = second["y"] > first["y"] + first["height"]
    assert stacked == (kind == "explorer")


def test_several_on_a_page_live_apart(explorer, scene, open_page):
    """Two different ones and a copy: each starts, each moves alone, none leaves a global name."""
    one, other = explorer, KernelExplorer(*scene, caption="Another.").html()
    empty = open_page("<p>nothing</p>").evaluate("Object.getOwnPropertyNames(window).length")
    page = open_page(one + other + one)
    figures = ready(page, count=3)
    figures.nth(1).locator("canvas.mx-frame").first.press("ArrowUp")
    assert [state(figures.nth(i))["row"] for i in range(3)] == ["3", "2", "3"]
    assert page.evaluate("Object.getOwnPropertyNames(window).length") == empty


def test_a_script_run_before_its_output_is_in_the_document_still_starts(explorer, open_page):
    """JupyterLab makes the elements first and attaches them afterwards."""
    page = open_page("<div id='cell'></div>")
    page.evaluate(
        """html => {
            const script = document.createElement("script");
            const host = document.createElement("div");
            host.innerHTML = html;
            script.textContent = host.querySelector("script").textContent;
            document.body.append(script);
            setTimeout(() => document.querySelector("#cell").append(host), 50);
        }""",
        explorer,
    )
    ready(page)


def test_without_scripts_a_legible_picture_stays(explorer, open_page):
    page = open_page(explorer, java_script_enabled=False)
    picture = page.locator(".minirsa-explorer img")
    assert picture.is_visible()
    assert picture.bounding_box()["width"] > 600
    assert page.locator("figcaption").inner_text() == "A caption."
    assert page.locator(".minirsa-explorer").get_attribute("data-state") == "static"


def test_animation_plays_pauses_and_steps(animation, open_page):
    page = open_page(animation)
    figure = ready(page, "animation")
    first = figure.get_attribute("data-state")
    assert first.startswith("playing")
    page.wait_for_function(f"document.querySelector('.minirsa-animation').dataset.state !== '{first}'")
    figure.get_by_role("button", name="Pause").click()
    paused = figure.get_attribute("data-state")
    page.wait_for_timeout(1000)
    assert figure.get_attribute("data-state") == paused
    assert paused.startswith("paused")
    figure.get_by_role("slider", name="Frame").fill("1")
    assert figure.get_attribute("data-state") == "paused frame=0"
    top, bottom = (0.5, 0.05), (0.5, 0.97)  # the square starts at the top, and in reverse at the bottom
    forwards, reverse = (figure.locator("canvas.mx-frame").nth(i) for i in (0, 1))
    light, dark = map(brightness, pixels(forwards, [top, bottom]))
    assert light > 150 > dark
    dark, light = map(brightness, pixels(reverse, [top, bottom]))
    assert light > 150 > dark
    figure.get_by_role("button", name="Play").click()
    assert figure.get_attribute("data-state").startswith("playing")


def test_animation_starts_paused_for_readers_who_want_less_motion(animation, open_page):
    figure = ready(open_page(animation, reduced_motion="reduce"), "animation")
    assert figure.get_attribute("data-state").startswith("paused")
