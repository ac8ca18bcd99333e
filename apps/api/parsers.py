"""Parses JSON bodies with limits of bytes, tokens and depth, so that each request needs bounded memory.

Handling a request takes at most MAX_MEMORY_BYTES of memory. `fields` validates the length of lists before
their members, and `problems` limits the number and length of the error messages.
"""

import ctypes
import gc
import itertools
import json
import re
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from django.conf import settings
from django.http import UnreadablePostError
from rest_framework import status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser

MAX_MEMORY_BYTES = 192 * 1024 * 1024  # measured for each endpoint by `test_request_memory.py`
MAX_TOKENS = 200_000  # a request with 1,000 comments and their ids has about 6,000
MAX_DEPTH = 64
MAX_DIGITS = 100  # in a number
_LARGE_BYTES, _COLLECT_AFTER_BYTES = 64 * 1024, 1024 * 1024
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
_uncollected = 0  # bytes of the large bodies read since the last garbage collection
# A string, even an unterminated one, or a separator of values.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|[,:\[{]', re.DOTALL)


class TooLargeError(APIException):
    """The body of a request has too many bytes."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = "The body is larger than {} bytes: send fewer comments at once."
    default_code = "too_large"


def read_body(stream: IO[bytes]) -> bytes:
    """Return the whole body.

    Raises:
        TooLargeError: the body has more than MAX_BODY_BYTES.
        ParseError: the client closed the connection before it had sent the whole body.
    """
    limit = settings.MAX_BODY_BYTES
    try:
        body = stream.read(limit + 1)
    except UnreadablePostError as error:
        raise ParseError("The connection was closed before the whole body had arrived.") from error
    if len(body) > limit:
        raise TooLargeError(TooLargeError.default_detail.format(limit))
    global _uncollected
    if len(body) > _LARGE_BYTES:
        _uncollected += len(body)
    return body


def collect_garbage() -> None:
    """Collect garbage if large bodies were read since the last collection. `toxicmod.asgi` calls it.

    Requests, serializers and exceptions of DRF form reference cycles, which keep the body and the parsed data
    in memory. Python counts objects, not bytes, so without this call a hundred requests of 800 KB take 700 MB
    (`test_many_requests_use_bounded_memory`). `malloc_trim` returns the freed memory to the system.
    """
    global _uncollected
    if _uncollected > _COLLECT_AFTER_BYTES:
        _uncollected = 0
        gc.collect()
        if _trim is not None:
            _trim(0)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {digits} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_reject_constant, parse_int=_integer, parse_float=_float)


def parse_json(body: bytes) -> Any:
    """Return the JSON value of a body.

    Raises:
        ParseError: the body is not UTF-8 or not JSON, is nested too deeply, or has too many tokens.
    """
    _check_tokens(body)
    try:
        value = _DECODER.decode(body.decode())
    except UnicodeDecodeError as error:
        raise ParseError(f"The body is not UTF-8: byte {error.start} can't be decoded.") from error
    except RecursionError as error:
        raise ParseError("The JSON is nested too deeply.") from error
    except ValueError as error:
        raise ParseError(f"The body is not JSON: {error}.") from error
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deep(value):
        raise ParseError("The JSON is nested too deeply.")
    return value


def _check_tokens(body: bytes) -> None:
    # Counting bytes is much faster than finding tokens, and gives an upper limit.
    if sum(map(body.count, (b",", b":", b"[", b"{", b'"'))) <= MAX_TOKENS:
        return
    if sum(1 for _ in itertools.islice(_TOKEN.finditer(body), MAX_TOKENS + 1)) > MAX_TOKENS:
        raise ParseError(f"The JSON has more than {MAX_TOKENS} tokens: send less data at once.")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            member
            for container in level
            if isinstance(container, dict | list)
            for member in (container.values() if isinstance(container, dict) else container)
        ]
    return any(isinstance(member, dict | list) for member in level)


class StrictJSONParser(BaseParser):
    """Parses `application/json` with the limits of this module."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        return parse_json(read_body(stream))
