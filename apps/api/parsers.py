"""JSON from strangers."""

import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from django.conf import settings
from django.http import UnreadablePostError
from rest_framework import status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser

_DRAIN_BYTES = 64 * 1024 * 1024


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
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    try:
        body = stream.read(limit + 1)
        if len(body) > limit:
            # A client reads the answer only after it has sent all, so swallow what is left, within reason.
            drained = 0
            while drained < _DRAIN_BYTES and (chunk := stream.read(1 << 16)):
                drained += len(chunk)
            raise TooLargeError(TooLargeError.default_detail.format(limit))
    except UnreadablePostError as error:
        raise ParseError("The connection was closed before the whole body had come.") from error
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_json(body: bytes) -> Any:
    """Return the JSON value of a body.

    Raises:
        ParseError: it is not UTF-8, not JSON or nested too deeply.
    """
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ParseError(f"The body is not UTF-8: byte {error.start} can't be decoded.") from error
    except RecursionError as error:
        raise ParseError("The JSON is nested too deeply.") from error
    except ValueError as error:
        raise ParseError(f"The body is not JSON: {error}.") from error


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
