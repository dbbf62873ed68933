"""The self-contained figures in a real browser, from a file, with the network refused: no kernel, no server."""

import os
import re
import shutil

import pytest
from playwright.sync_api import sync_playwright

from minirsa.viz import AlignmentMap, AttentionExplorer, KernelExplorer, kernel_animation

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


@pytest.fixture(scope="module")
def looking(attention_scene):
    return AttentionExplorer(*attention_scene, caption="Where it looks.")


@pytest.fixture(scope="module")
def aligned(examples):
    return AlignmentMap(examples, caption="Which word.")


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


def test_several_on_a_page_live_apart(explorer, looking, aligned, scene, open_page):
    """Two different ones and a copy: each starts, each moves alone, none leaves a global name."""
    one, other = explorer, KernelExplorer(*scene, caption="Another.").html()
    empty = open_page("<p>nothing</p>").evaluate("Object.getOwnPropertyNames(window).length")
    page = open_page(one + other + looking.html() + one + aligned.html())
    ready(page, "attention")
    ready(page, "alignment")
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


def test_the_query_moves_by_click_drag_and_keys_into_any_frame(looking, open_page):
    page = open_page(looking.html())
    figure = ready(page, "attention")
    assert state(figure) == {"frame": "1", "row": "1", "column": "2", "shown": "sharp"}
    frames = [figure.locator("canvas.mx-frame").nth(t) for t in range(3)]
    boxes = [frame.bounding_box() for frame in frames]

    def at(t, row, column):
        box = boxes[t]
        return box["x"] + (column + 0.5) / 4 * box["width"], box["y"] + (row + 0.5) / 3 * box["height"]

    def place():
        return tuple(int(state(figure)[name]) for name in ("frame", "row", "column"))

    page.mouse.click(*at(2, 0, 3))
    assert place() == (2, 0, 3)
    page.mouse.move(*at(0, 0, 0))
    assert place() == (2, 0, 3), "no button is pressed"
    page.mouse.down()
    page.mouse.move(*at(0, 2, 1), steps=4)
    assert place() == (0, 2, 1)
    page.mouse.move(*at(2, 1, 1), steps=4)
    page.mouse.up()
    assert place() == (0, 1, 3), "dragged out of a frame: that frame's nearest patch"
    for key, expected in [
        ("ArrowUp", (0, 0, 3)),
        ("ArrowUp", (0, 0, 3)),
        ("ArrowLeft", (0, 0, 2)),
        ("PageDown", (1, 0, 2)),
        ("ArrowDown", (1, 1, 2)),
        ("PageDown", (2, 1, 2)),
        ("PageDown", (2, 1, 2)),
        ("ArrowRight", (2, 1, 3)),
        ("PageUp", (1, 1, 3)),
    ]:
        page.keyboard.press(key)
        assert place() == expected, key
    assert frames[1].evaluate("c => c === document.activeElement"), "the focus goes with the query"
    assert [frame.get_attribute("tabindex") for frame in frames] == ["-1", "0", "-1"]


def test_one_picture_has_no_frame_to_choose(attention_scene, open_page):
    clip, weights = attention_scene
    weights = {name: each[:1, :, :, :1] for name, each in weights.items()}
    page = open_page(AttentionExplorer(clip[:1], weights, caption="").html(), has_touch=True)
    figure = ready(page, "attention")
    assert figure.locator("input[type=range]").count() == 0
    box = figure.locator("canvas.mx-frame").bounding_box()
    page.touchscreen.tap(box["x"] + 0.95 * box["width"], box["y"] + 0.95 * box["height"])
    assert (state(figure)["row"], state(figure)["column"]) == ("2", "3")
    figure.locator("canvas.mx-frame").press("PageDown")
    assert state(figure)["frame"] == "0"
    maps = [figure.get_by_label(f"{name}: the query's weights").bounding_box() for name in weights]
    assert maps[0]["y"] == maps[1]["y"], "the maps stand side by side, to compare them"
    assert maps[0]["x"] > box["x"] + box["width"]


def test_list_slider_and_maps_choose_which_weights_lie_on_the_frames(looking, open_page):
    page = open_page(looking.html())
    figure = ready(page, "attention")
    figure.locator("select").select_option(label="even")
    assert state(figure)["shown"] == "even"
    figure.get_by_label("space: the query's weights, one map a frame").click()
    assert state(figure)["shown"] == "space"
    figure.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    assert state(figure)["frame"] == "2"
    said = figure.locator(".mx-say[role=status]").inner_text()
    assert said == f"Query: row 2 of 3, column 3 of 4, frame 3 of 3. space: {looking.numbers('space', 2, 1, 2)}."


def test_maps_and_frames_show_the_weights_of_the_query(looking, open_page):
    """Compares drawn colours with the arrays, after moving: each name, each frame; what is masked has its grey."""
    page = open_page(looking.html(), color_scheme="light")
    figure = ready(page, "attention")
    figure.locator("canvas.mx-frame").nth(1).press("ArrowDown")
    figure.locator("select").select_option(label="space")
    purple, masked = (0x67, 0x41, 0xD9), (0xE3, 0xE7, 0xEC)
    spots = [(y, x) for y in range(3) for x in range(4) if (y, x) != (2, 2)]  # the query's own place has a mark
    for name in looking.names:
        weights = looking.row(name, 1, 2, 2)
        strip = figure.get_by_label(f"{name}: the query's weights, one map a frame")
        width = strip.evaluate("c => c.clientWidth")
        side = (width - 2 * 4) / 3
        for t in range(3):
            fractions = [((t * (side + 4) + (x + 0.5) * side / 4) / width, (y + 0.5) / 3) for y, x in spots]
            for (y, x), drawn in zip(spots, pixels(strip, fractions)):
                share = weights[t, y, x] / weights.max()
                expected = [255 + (c - 255) * share for c in purple] if share else masked
                assert drawn == pytest.approx(expected, abs=4), (name, t, y, x)
        numbers = figure.locator(".mx-numbers").nth(looking.names.index(name)).inner_text()
        assert numbers == looking.numbers(name, 1, 2, 2)
    over = [
        pixels(figure.locator("canvas.mx-frame").nth(t), [((x + 0.5) / 4, (y + 0.5) / 3) for y, x in spots])
        for t in (0, 1)
    ]
    assert all(max(rgb) - min(rgb) < 12 for rgb in over[0]), "masked: grey in the other frames"
    strongest = max(range(len(spots)), key=lambda i: looking.row("space", 1, 2, 2)[(1, *spots[i])])
    red, green, blue = over[1][strongest]
    assert blue > red + 40 > green + 40
    figure.locator("select").select_option(label="nothing")
    own = pixels(figure.locator("canvas.mx-frame").nth(0), [(0.5, 0.15)])[0]
    assert own == pytest.approx((250, 200, 60), abs=3), "without weights the clip has its own colours"


@pytest.mark.parametrize("kind", ["attention", "alignment"])
def test_attention_figures_fit_a_small_screen(looking, aligned, open_page, kind):
    page = open_page((looking if kind == "attention" else aligned).html(), width=360)
    figure = ready(page, kind)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    if kind == "attention":
        boxes = [canvas.bounding_box() for canvas in figure.locator("canvas").all()]
        assert all(box["x"] + box["width"] <= 352 for box in boxes)
        assert boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"], "two frames a row"
        return
    figure.locator("select").select_option(label="Long")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    inner, outer = (figure.locator(".mx-scroll").evaluate(f"s => s.{name}") for name in ("scrollWidth", "clientWidth"))
    assert inner > outer, "48 words scroll inside the figure"
    assert figure.locator(".mx-head").first.bounding_box()["width"] >= 16


@pytest.mark.parametrize("kind", ["attention", "alignment"])
def test_attention_figures_follow_the_theme(looking, aligned, open_page, kind):
    page = open_page((looking if kind == "attention" else aligned).html(), color_scheme="light")
    figure = ready(page, kind)
    spots = [(x / 20, y / 20) for x in range(1, 20) for y in range(1, 20)]

    def light():
        if kind == "alignment":
            return figure.locator(".mx-bar span").first.evaluate("s => getComputedStyle(s).backgroundColor")
        maps = figure.get_by_label("sharp: the query's weights, one map a frame")
        return sum(map(brightness, pixels(maps, spots))) / len(spots)

    before = light()
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(100)
    assert figure.evaluate("f => getComputedStyle(f).backgroundColor") == "rgb(20, 24, 31)"
    if kind == "alignment":
        assert (before, light()) == ("rgb(103, 65, 217)", "rgb(169, 139, 255)")
    else:
        assert light() < before - 40


@pytest.mark.parametrize("kind", ["attention", "alignment"])
def test_attention_figures_leave_a_picture_without_scripts(looking, aligned, open_page, kind):
    page = open_page((looking if kind == "attention" else aligned).html(), java_script_enabled=False)
    picture = page.locator(f".minirsa-{kind} img")
    assert picture.is_visible()
    assert picture.bounding_box()["width"] > 300
    assert picture.evaluate("i => i.naturalWidth") > 300
    assert page.locator("figcaption").inner_text() in ("Where it looks.", "Which word.")


def test_pointing_at_an_output_word_shows_the_input_words_it_looked_at(aligned, examples, open_page):
    page = open_page(aligned.html())
    figure = ready(page, "alignment")
    korean = examples[0]
    chips, bars = figure.get_by_role("radio"), figure.locator(".mx-bar span")
    assert chips.all_inner_texts() == korean.target
    assert figure.locator(".mx-tokens").first.locator("b").all_inner_texts() == korean.source
    assert figure.locator(".mx-tokens").first.locator("i").all_inner_texts() == list(korean.gloss)

    for target in (3, 5):
        chips.nth(target).hover()
        row = korean.weights[target]
        assert state(figure) == {"example": "0", "target": str(target), "most": str(row.argmax())}
        assert chips.nth(target).get_attribute("aria-checked") == "true"
        assert figure.locator("[aria-checked=true]").count() == 1
        shown = [float(bar.evaluate("b => b.style.width").rstrip("%")) / 100 for bar in bars.all()]
        assert shown == pytest.approx(row / korean.weights.max(), abs=0.001)
        printed = [float(text) for text in figure.locator("small").all_inner_texts()]
        assert printed == pytest.approx(row, abs=0.0051)
    best = row.argsort()[::-1][:3]
    said = figure.locator(".mx-say[role=status]").inner_text()
    assert said.startswith(f"Output word 6 of 7, “0”, looked at “{korean.source[best[0]]}” ")
    assert all(f"“{korean.source[s]}”" in said for s in best if row[s] > 0.02)
    assert "0.00" not in said


def test_the_grid_shows_every_weight_and_can_be_pointed_at(aligned, examples, open_page):
    page = open_page(aligned.html())
    figure = ready(page, "alignment")
    korean = examples[0]
    opacity = "cells => cells.map((cell) => Number(cell.firstChild.style.opacity))"
    shares = figure.locator(".mx-cell").evaluate_all(opacity)
    assert shares == pytest.approx((korean.weights / korean.weights.max()).ravel(), abs=0.001)
    figure.locator("[data-target='4'][data-source='2']").hover()
    assert state(figure)["target"] == "4"
    assert state(figure)["source"] == "2"
    weight = re.search(r"looked at “사” ([\d.]+)\.$", figure.locator(".mx-say").inner_text())
    assert float(weight[1]) == pytest.approx(korean.weights[4, 2], abs=0.0051)
    assert figure.locator(".mx-row[data-source]").count() == len(korean.source)


def test_keys_go_through_the_output_words_and_round(aligned, open_page):
    page = open_page(aligned.html())
    figure = ready(page, "alignment")
    figure.get_by_role("radio").first.focus()
    for key, target in [
        ("ArrowRight", 1),
        ("ArrowDown", 2),
        ("ArrowLeft", 1),
        ("End", 6),
        ("ArrowRight", 0),
        ("ArrowUp", 6),
    ]:
        page.keyboard.press(key)
        assert state(figure)["target"] == str(target), key
    page.keyboard.press("Home")
    assert figure.get_by_role("radio").first.evaluate("c => c === document.activeElement && c.tabIndex === 0")


def test_another_example_starts_at_its_first_word(aligned, examples, open_page):
    page = open_page(aligned.html(), has_touch=True)
    figure = ready(page, "alignment")
    figure.get_by_role("radio").nth(6).tap()
    assert state(figure)["target"] == "6"
    figure.locator("select").select_option(label="English")
    assert state(figure) == {"example": "1", "target": "0", "most": str(examples[1].weights[0].argmax())}
    assert figure.get_by_role("radio").all_inner_texts() == [c if c != " " else "␣" for c in examples[1].target]
    assert figure.locator("i").count() == 0, "no gloss"
    figure.locator("[data-target='2'][data-source='5']").tap()
    assert state(figure)["target"] == "2"
    assert figure.locator(".mx-token").filter(has_text="thousand").count() == 1


def test_the_grid_scrolls_to_what_the_chosen_word_looked_at(aligned, examples, open_page):
    page = open_page(aligned.html(), width=360)
    figure = ready(page, "alignment")
    figure.locator("select").select_option(label="Long")
    long = examples[2]
    for target in (int(long.weights.argmax(axis=1).argmax()), int(long.weights.argmax(axis=1).argmin())):
        figure.get_by_role("radio").nth(target).click()
        best = int(long.weights[target].argmax())
        view = figure.locator(".mx-scroll").bounding_box()
        cell = figure.locator(f"[data-target='{target}'][data-source='{best}']").bounding_box()
        side = figure.locator(".mx-side").nth(1).bounding_box()
        assert side["x"] + side["width"] - 1 <= cell["x"] <= view["x"] + view["width"] - cell["width"] + 1
    assert side["x"] >= view["x"] - 1, "the output words stay in sight"
