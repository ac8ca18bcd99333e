"""Classification of attempts and the time of retries."""

from datetime import UTC, datetime, timedelta

import pytest

from apps.webhooks import retries
from apps.webhooks.exceptions import InvalidEndpointError, NoResponseError, ResponseTimeoutError
from apps.webhooks.retries import attempt, parse_retry_after
from apps.webhooks.transport import Response

NOW = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)


def respond(status: int, retry_after: str = "", excerpt: str = "") -> retries.Attempt:
    return attempt(lambda: Response(status, retry_after, excerpt, 0.1))


def test_attempt_classifies_every_status() -> None:
    kinds = {status: respond(status) for status in range(200, 600)}
    delivered = {status for status, kind in kinds.items() if kind.is_delivered}
    temporary = {status for status, kind in kinds.items() if not kind.is_delivered and not kind.is_permanent}
    assert delivered == set(range(200, 300))
    assert temporary == {408, 409, 423, 425, 429, *range(500, 600)}
    assert {status for status, kind in kinds.items() if kind.is_outage} == {408, 429, 502, 503, 504}


@pytest.mark.parametrize(
    ("error", "is_permanent", "is_timeout"),
    [
        (InvalidEndpointError, True, False),
        (NoResponseError, False, False),
        (ResponseTimeoutError, False, True),
    ],
)
def test_attempt_without_response(error: type[Exception], is_permanent: bool, is_timeout: bool) -> None:
    def fail() -> Response:
        raise error("why")

    result = attempt(fail)
    assert (result.error, result.status) == ("why", None)
    assert (result.is_permanent, result.is_outage, result.is_timeout) == (
        is_permanent,
        not is_permanent,
        is_timeout,
    )


def test_attempt_error_contains_status_redirect_and_excerpt() -> None:
    assert respond(410).error == "The receiver responded 410 Gone."
    assert respond(599).error == "The receiver responded 599."
    assert "use the final URL" in respond(301).error
    assert respond(422, excerpt="no\n field\0 “x”").error.endswith("It said: no field “x”")
    assert len(respond(500, excerpt="x" * 5_000).error) < 300


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("999999999", 6 * 3600),
        ("9" * 400, 6 * 3600),
        ("Sat, 28 Nov 2026 12:01:30 GMT", 90),
        ("Sat, 28 Nov 2026 12:01:30 -0000", 90),
        ("Saturday, 28-Nov-26 12:01:30 GMT", 90),
        ("Sat, 28 Nov 2026 11:00:00 GMT", 0),
        ("Sun, 28 Nov 2027 12:00:00 GMT", 6 * 3600),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Sat, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_parse_retry_after(value: str, seconds: int | None) -> None:
    retry_at = parse_retry_after(value, NOW)
    assert retry_at == (None if seconds is None else timedelta(seconds=seconds))
