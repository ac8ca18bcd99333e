"""The responses of a real site: size, compression, caching and headers."""

import os
import re
import urllib.request
from collections.abc import Iterator
from http.client import HTTPMessage
from pathlib import Path

import pytest
from django.conf import settings
from playwright.sync_api import Browser

from toxicmod.benchmarks.pages import PATHS, measure
from toxicmod.testing.site import ROOT, manage, site


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real site with its static files collected."""
    manifest = ROOT / "staticfiles" / "staticfiles.json"
    newest = max(path.stat().st_mtime for path in Path(ROOT, "static").rglob("*"))
    folder = tmp_path_factory.mktemp("site")
    if not manifest.exists() or manifest.stat().st_mtime < newest:
        manage("collectstatic", "--noinput", "-v0", env=os.environ | {"DATA_DIR": str(folder)})
    with site(folder, WEB_CONCURRENCY="1") as (url, _):
        yield url


def _get(url: str, **headers: str) -> tuple[HTTPMessage, bytes]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
        return response.headers, response.read()


@pytest.mark.parametrize("path", PATHS)
def test_first_visit_is_below_100_kilobytes_without_layout_shift(
    chromium: Browser, url: str, path: str
) -> None:
    metrics = measure(chromium, url, path)
    assert metrics.kilobytes < 100
    assert metrics.requests <= 6
    assert metrics.layout_shift < 0.1
    assert metrics.elements < 800


def test_static_files_are_hashed_compressed_and_immutable(url: str) -> None:
    _, html = _get(url)
    style = re.search(rb'href="(/static/pages/site\.[0-9a-f]{12}\.css)"', html)
    assert style is not None
    headers, body = _get(url + style[1].decode(), **{"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert "immutable" in headers["Cache-Control"]
    assert len(body) < 8_000


def test_pages_send_security_headers(url: str) -> None:
    headers, _ = _get(url)
    policy = headers["Content-Security-Policy"]
    for part in ("default-src 'self'", "object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == settings.SECURE_REFERRER_POLICY
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
