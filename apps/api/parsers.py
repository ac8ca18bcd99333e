"""JSON bodies from strangers, limited in bytes, tokens and depth so that parsing one needs bounded memory.

Parsing a body takes at most MAX_MEMORY_BYTES of memory, and so does answering it: lists are limited before
their members are validated, at most twenty errors are reported and what they quote is shortened.
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

MAX_MEMORY_BYTES = 192 * 1024 * 1024  # a test measures it for every endpoint
MAX_TOKENS = 200_000  # a batch of a thousand comments with their ids has about 6,000
MAX_DEPTH = 64
MAX_DIGITS = 100  # of a number
_COLLECTED_BYTES = 1024 * 1024
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
_uncollected = 0  # bytes of the bodies read since garbage was collected
# A string, even one that does not end, or what separates values.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|[,:\[{]', re.DOTALL)


class TooLargeError(APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = "The body is larger than {} bytes: send fewer comments at once."
    default_code = "too_large"


def read_body(stream: IO[bytes]) -> bytes:
    """Return the whole body.

    Raises:
        TooLargeError: it is larger than the site accepts.
        ParseError: the client closed the connection before it had sent the whole body.
    """
    limit = settings.MAX_BODY_BYTES
    try:
        body = stream.read(limit + 1)
    except UnreadablePostError as error:
        raise ParseError("The connection was closed before the whole body had come.") from error
    if len(body) > limit:
        raise TooLargeError(TooLargeError.default_detail.format(limit))
    global _uncollected
    _uncollected += len(body)
    return body


def collect_garbage() -> None:
    """Collect garbage once the bodies that were read since the last time are large. The server calls it.

    Requests, serializers and exceptions of DRF are in reference cycles, which keep the body and what was
    parsed from it. Python counts objects, not bytes: without this, a hundred requests of 800 KB take 700 MB
    (`test_many_requests_take_bounded_memory`). glibc keeps what threads have freed, and is told to return it.
    """
    global _uncollected
    if _uncollected > _COLLECTED_BYTES:
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
        ParseError: it is not UTF-8, not JSON, nested too deeply or has too many values.
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
    # To count these bytes takes a thousandth of the time that finding tokens does; most are within comments.
    if sum(map(body.count, (b",", b":", b"[", b"{", b'"'))) <= MAX_TOKENS:
        return
    if sum(1 for _ in itertools.islice(_TOKEN.finditer(body), MAX_TOKENS + 1)) > MAX_TOKENS:
        raise ParseError(f"The JSON has more than {MAX_TOKENS} tokens: send less at once.")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            member
            for each in level
            if isinstance(each, dict | list)
            for member in (each.values() if isinstance(each, dict) else each)
        ]
    return any(isinstance(each, dict | list) for each in level)


class StrictJSONParser(BaseParser):
    """Parses `application/json` of a bounded size."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        return parse_json(read_body(stream))
