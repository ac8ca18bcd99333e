"""Connections of every platform."""

from collections.abc import Callable
from typing import Any

import pytest

from apps.connectors import actions
from apps.connectors.models import Connection
from apps.connectors.tests.payloads import SECRET
from apps.core.permissions import SYSTEM


@pytest.fixture
def connect(db: None) -> Callable[..., Connection]:
    """Create a connection."""

    def make(platform: str, token: str = "", **fields: Any) -> Connection:
        connection = Connection(platform=platform, **fields)
        return actions.save_connection(actor=SYSTEM, connection=connection, secret=SECRET, token=token)

    return make
