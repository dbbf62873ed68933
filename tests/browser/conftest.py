"""The built site, served on 127.0.0.1 and seen by a headless Chromium that can reach nothing else.

The site is built here, from the working tree, unless `make book` or `make site` has just built it.
"""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line of log for each."""

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="session")
def chromium():
    """Path of the browser. Without one, tests are skipped on a reader's machine and fail in CI."""
    if CHROMIUM is None:
        assert not os.environ.get("CI"), "CI needs chromium: .ci/run installs it"
        pytest.skip("no chromium on this machine")
    return CHROMIUM


@pytest.fixture(scope="session")
def site(chromium):
    """Address of the served site."""
    done = subprocess.run(
        [sys.executable, "book/tools/build.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    handler = functools.partial(QuietHandler, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def browser(chromium):
    """One Chromium for a file of tests: tests/viz has its own, and Playwright allows one at a time."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page that was opened, and what went wrong on it."""

    def __init__(self, page, refused, messages):
        self.page = page
        self.refused = refused
        self.messages = messages


@pytest.fixture
def visit(browser, site):
    """Open a page of the site: `visit("13_rsa.html", width=360, scheme="dark")`."""
    contexts = []

    def open_page(name, width=1280, height=900, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        refused, messages = [], []

        def route(route):
            if route.request.url.startswith((site, "data:", "blob:")):
                route.continue_()
            else:
                refused.append(route.request.url)
                route.abort()

        context.route("**/*", route)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(f"{site}/{name}", wait_until="load")
        page.wait_for_function("!window.MathJax?.startup?.promise || document.readyState === 'complete'")
        page.evaluate("() => window.MathJax?.startup?.promise")
        return Visit(page, refused, messages)

    yield open_page
    for context in contexts:
        context.close()
