"""Classifies the result of an attempt to send a webhook, and computes when to retry it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from apps.webhooks.exceptions import ExchangeError, InvalidEndpointError, ResponseTimeoutError
from apps.webhooks.transport import Response

FIRST_WAIT = timedelta(seconds=10)
MAX_WAIT = timedelta(hours=1)
MAX_RETRY_AFTER = timedelta(hours=6)
GIVE_UP_AFTER = timedelta(days=3)
# Status codes of client errors that may be temporary. Other client errors and redirects are permanent.
_TEMPORARY = {408, 409, 423, 425, 429}
# Status codes that say that the receiver can't process any webhook now.
_OUTAGES = {408, 429, 502, 503, 504}


@dataclass(frozen=True)
class Attempt:
    """The result of an attempt to send a webhook."""

    error: str = ""
    status: int | None = None
    is_permanent: bool = False
    is_outage: bool = False
    is_timeout: bool = False
    retry_after: timedelta | None = None
    excerpt: str = ""
    seconds: float = 0.0

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver confirmed the webhook."""
        return not self.error

    @property
    def sentence(self) -> str:
        """The result in words: status and time, or the reason for the failure."""
        if self.status is None:
            return f"Not delivered. {self.error}"
        result = "Delivered." if self.is_delivered else "Not delivered."
        excerpt = self.excerpt.strip()[:200] if self.is_delivered else ""
        described = f"The receiver responded {self.status}." if self.is_delivered else self.error
        quoted = f" It said: {excerpt}" if excerpt else ""
        return f"{result} {described}{quoted} It took {self.seconds:.2f} s."


def attempt(send: Callable[[], Response]) -> Attempt:
    """Call `send` and return the result; exchange errors become part of it."""
    try:
        response = send()
    except InvalidEndpointError as error:
        return Attempt(error=str(error), is_permanent=True)
    except ExchangeError as error:
        return Attempt(error=str(error), is_outage=True, is_timeout=isinstance(error, ResponseTimeoutError))
    status = response.status
    return Attempt(
        error="" if 200 <= status < 300 else _describe(response),
        status=status,
        is_permanent=300 <= status < 500 and status not in _TEMPORARY,
        is_outage=status in _OUTAGES,
        retry_after=parse_retry_after(response.retry_after),
        excerpt=response.excerpt,
        seconds=response.seconds,
    )


def _describe(response: Response) -> str:
    try:
        phrase = f" {HTTPStatus(response.status).phrase}"
    except ValueError:
        phrase = ""
    sentence = f"The receiver responded {response.status}{phrase}."
    if 300 <= response.status < 400:
        sentence += " Redirects are not followed: use the final URL."
    excerpt = " ".join(response.excerpt.replace("\0", "").split())[:160]
    return f"{sentence} It said: {excerpt}" if excerpt else sentence


def parse_retry_after(value: str, now: datetime | None = None) -> timedelta | None:
    """Return how long a `Retry-After` header asks to wait, at most `MAX_RETRY_AFTER`; None without one.

    RFC 9110, section 10.2.3: a number of seconds, or an HTTP date.
    """
    value = value.strip()
    if value.isascii() and value.isdecimal():
        # Ten digits or more exceed the maximum in any case.
        wait = timedelta(seconds=int(value)) if len(value) < 10 else MAX_RETRY_AFTER
    else:
        try:
            moment = parsedate_to_datetime(value)
            wait = moment.replace(tzinfo=moment.tzinfo or UTC) - (now or datetime.now(UTC))
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    return min(max(wait, timedelta(0)), MAX_RETRY_AFTER)
