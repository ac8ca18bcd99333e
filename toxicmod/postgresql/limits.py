"""How long a process waits for PostgreSQL, by its kind."""

from dataclasses import dataclass

from django.conf import settings


@dataclass(frozen=True)
class TimeLimits:
    """The seconds to wait for a response, and the milliseconds that a statement may take (0: no limit)."""

    response: float
    statement: int


# Migrations, rollups and other background work take long.
BACKGROUND = TimeLimits(response=3_600, statement=0)
# PostgreSQL cancels slow statements itself; the longer limit is for a server that does not respond.
WEB = TimeLimits(response=5, statement=4_500)
_defaults = BACKGROUND


def set_defaults(limits: TimeLimits) -> None:
    """Set what applies in this process where the settings are None."""
    global _defaults
    _defaults = limits


def response_seconds() -> float:
    """Return how long this process waits for a response."""
    return _defaults.response if settings.DATABASE_TIMEOUT is None else settings.DATABASE_TIMEOUT


def statement_milliseconds() -> int:
    """Return how long a statement of this process may take; 0: no limit."""
    return _defaults.statement if settings.STATEMENT_TIMEOUT_MS is None else settings.STATEMENT_TIMEOUT_MS
