"""Tests of `manage.py bench_pages`."""

import pytest
from django.core.management import CommandError, call_command


def test_bench_pages_without_chromium(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toxicmod.testing.browser.chromium_path", lambda: None)
    with pytest.raises(CommandError, match="apt-get install chromium"):
        call_command("bench_pages")
