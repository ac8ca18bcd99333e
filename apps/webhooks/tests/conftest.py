"""Fixtures for the tests of webhooks."""

from collections.abc import Iterator

import pytest
from pytest_django import Settings

from toxicmod.testing.receivers import Receiver, running_receiver


@pytest.fixture
def receiver(settings: Settings) -> Iterator[Receiver]:
    """A receiver on 127.0.0.1, which webhooks may reach."""
    settings.WEBHOOK_ALLOW_PRIVATE = True
    with running_receiver() as server:
        yield server
