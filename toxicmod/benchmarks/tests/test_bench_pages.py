"""The benchmark of the pages runs, and says what it misses."""

import pytest
from django.core.management import CommandError, call_command


def test_without_chromium_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toxicmod.testing.browser.chromium_path", lambda: None)
    with pytest.raises(CommandError, match="apt-get install chromium"):
        call_command("bench_pages")
