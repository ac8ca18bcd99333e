"""Headless Chromium for tests and benchmarks, driven by Playwright, with axe-core."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from apps.accounts.models import User

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT = 20_000  # milliseconds, enough for a busy machine
SIZES = {390: 844, 1440: 900}
APPEARANCES = [(width, theme) for width in SIZES for theme in ("light", "dark")]
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def chromium_path() -> str | None:
    """Return the path of Chromium from the environment variable CHROMIUM or from the PATH, or None."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium with an empty profile.

    Raises:
        RuntimeError: there is no Chromium on this machine.
    """
    path = chromium_path()
    if path is None:
        raise RuntimeError(
            "There is no Chromium here: `apt-get install chromium`, or set CHROMIUM to its path."
        )
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page, its errors, and its requests to other hosts."""

    page: Page
    host: str
    appearance: str
    errors: list[str] = field(default_factory=list)
    foreign_requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on(
            "console", lambda message: self.errors.append(message.text) if message.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self._request(request.url))

    def _dialog(self, dialog: Any) -> None:
        self.errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != self.host:
            self.foreign_requests.append(url)


def new_page(
    browser: Browser,
    url: str,
    *,
    width: int = 1440,
    theme: str = "light",
    javascript: bool = True,
    user: User | None = None,
    touch: bool = False,
) -> Visit:
    """Open an empty page in a new browser context.

    Args:
        url: the site, e.g. `live_server.url`; paths given to `page.goto` are relative to it.
        width: in CSS pixels.
        theme: the preferred colour scheme, `light` or `dark`.
        touch: whether the device has a touch screen only.
        user: the user to sign in; the site has to use the test's database (`live_server`).
    """
    context = browser.new_context(
        base_url=url,
        viewport=ViewportSize(width=width, height=SIZES.get(width, 900)),
        color_scheme="dark" if theme == "dark" else "light",
        reduced_motion="reduce",
        java_script_enabled=javascript,
        locale="en-GB",
        has_touch=touch,
        is_mobile=touch,
    )
    if user is not None:
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        session = client.cookies[settings.SESSION_COOKIE_NAME].value
        context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": url}])
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    return Visit(page, urlsplit(url).netloc, f"{width}-{theme}")


def violations(page: Page, *, exclude: tuple[str, ...] = (), **options: Any) -> list[str]:
    """Return the violations of WCAG 2.2 AA that axe-core reports, one line for each rule and element.

    Args:
        exclude: selectors of elements that are not checked, because libraries create them.
    """
    # Without preload axe does not fetch style sheets, which the content security policy forbids.
    defaults = {"runOnly": {"type": "tag", "values": WCAG}, "preload": False}
    context = {"exclude": [[selector] for selector in exclude]} if exclude else None
    results = Axe().run(page, context, options=defaults | options)
    return [
        f"{violation['id']}: {violation['help']} at {node['target']}: {node.get('failureSummary', '')}"
        for violation in results.response["violations"]
        for node in violation["nodes"]
    ]


def overflow(page: Page) -> int:
    """Return by how many CSS pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def screenshot(visit: Visit, name: str) -> None:
    """Save a screenshot in the folder of the environment variable SCREENSHOTS, if it is set."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        visit.page.screenshot(path=Path(folder, f"{name}-{visit.appearance}.png"), full_page=True)


def assert_sound(visit: Visit, name: str, **options: Any) -> None:
    """Fail if the page scrolls sideways, violates WCAG 2.2 AA, logs an error or calls another host.

    Args:
        name: the name of the screenshot, see `screenshot`.
        options: see `violations`.
    """
    screenshot(visit, name)
    assert overflow(visit.page) <= 0
    assert violations(visit.page, **options) == []
    assert visit.errors == []
    assert visit.foreign_requests == []
