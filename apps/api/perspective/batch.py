"""Google's batch format: a multipart/mixed body of HTTP requests, each of which gets its own response.

A part contains a request, never another multipart body, so one linear search for the boundary splits the
body. The number of parts and the size of their headers are limited.
"""

import io
import itertools
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse
from django.http.multipartparser import MultiPartParserError
from django.utils.http import parse_header_parameters

from apps.api.perspective import views
from apps.api.perspective.authorization import (
    authorize_batch,
    find_invalid_keys,
    get_secret,
    invalid_secret,
)
from apps.api.perspective.exceptions import (
    PerspectiveError,
    invalid_argument,
    not_found,
)
from apps.api.perspective.rendering import error_response
from apps.core.batches import map_batch

MAX_HEADER_BYTES, MAX_HEADER_LINES = 16_384, 64  # of a part, and of the request in it
MAX_SPAN_SCORES = 100_000  # in the responses of one batch
_ANALYZE = "/v1alpha1/comments:analyze"
_VIEWS = {
    "/v1alpha1/comments:suggestscore": views.suggestscore,
    "/$discovery/rest": views.discovery,
}
# The headers of an inner request that count. Addresses, hosts and proxies are those of the batch request.
_INNER_HEADERS = {
    "content-type": "CONTENT_TYPE",
    "authorization": "HTTP_AUTHORIZATION",
    "x-goog-api-key": "HTTP_X_GOOG_API_KEY",
}
_OUTER_HEADERS = ("HTTP_HOST", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO")
_BLANK_LINE = re.compile(rb"(?:\A|\n)\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]")  # a line that begins with white space continues a header (RFC 5322)
_IDENTITY = (b"", b"binary", b"7bit", b"8bit")


@dataclass(frozen=True)
class _Part:
    """A part of a batch: its Content-ID as the response repeats it, and its request or the error in it."""

    content_id: str
    request: WSGIRequest | PerspectiveError


@views.perspective_view
def batch(request: HttpRequest) -> HttpResponse:
    """Handle up to MAX_BATCH requests and score all comments together; count each against its rate limit.

    The API key of the batch request and its rate limit are checked before the body is parsed. An error in a
    part is the response of that part. If the body breaks the format, the response is an error and nothing is
    stored.
    """
    if request.method != "POST":
        raise not_found()
    body = views.read_request_body(
        request
    )  # first, because a client reads the response only after it has sent all
    authorize_batch(request)
    bodies = list(_split(body, _boundary(request)))
    if len(bodies) > settings.MAX_BATCH:
        raise invalid_argument(f"The batch has more than the {settings.MAX_BATCH} requests allowed.", None)
    secret = get_secret(request)
    parts = [_part(request, part, secret) for part in bodies]
    requests = [part.request for part in parts if isinstance(part.request, WSGIRequest)]
    invalid_keys = find_invalid_keys(requests, request)
    parts = [
        replace(part, request=invalid_secret(part.request))
        if isinstance(part.request, WSGIRequest) and get_secret(part.request) in invalid_keys
        else part
        for part in parts
    ]
    return _multipart(parts, _handle(request, parts))


def _boundary(request: HttpRequest) -> bytes:
    try:
        media_type, parameters = parse_header_parameters(request.META.get("CONTENT_TYPE", ""))
        boundary = parameters.get("boundary", "").encode("latin-1")
    except (ValueError, LookupError, MultiPartParserError):
        media_type, boundary = "", b""
    if media_type != "multipart/mixed" or not 0 < len(boundary) <= 200:
        raise _malformed("the Content-Type is not multipart/mixed with a boundary")
    return boundary


def _malformed(reason: str) -> PerspectiveError:
    return invalid_argument(f"Failed to parse batch request: {reason}.", None)


def _split(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """Yield the parts between the delimiters (RFC 2046, section 5.1.1); stop after MAX_BATCH + 1 parts.

    Raises:
        PerspectiveError: there is no delimiter.
    """
    delimiter = re.compile(rb"\n--" + re.escape(boundary) + rb"(--)?+[ \t]*+\r?(?=\n|\Z)")
    body = b"\n" + body
    begin = None
    delimiters = delimiter.finditer(body)
    for match in itertools.islice(delimiters, settings.MAX_BATCH + 2):
        if begin is not None:
            yield body[begin : match.start()].removesuffix(b"\r")
        begin = match.end() + 1
        if match[1]:
            return
    if begin is None:
        raise _malformed("the body is not multipart/mixed")
    if next(delimiters, None) is None and begin < len(body):  # the last delimiter is missing
        yield body[begin:]


def _parse_headers(data: bytes, begin: int = 0) -> tuple[dict[str, bytes], int]:
    """Return the unfolded headers at `begin` by their lower-case names, and the index of the body.

    Raises:
        PerspectiveError: the headers are too long or too many, or one has no colon.
    """
    end = _BLANK_LINE.search(data, begin, begin + MAX_HEADER_BYTES)
    if end is None and len(data) - begin > MAX_HEADER_BYTES:
        raise _malformed(f"the headers of a part are longer than {MAX_HEADER_BYTES} bytes")
    head = data[begin : end.start() if end else len(data)]
    if head.count(b"\n") >= MAX_HEADER_LINES:
        raise _malformed(f"a part has more than {MAX_HEADER_LINES} header lines")
    headers: dict[str, bytes] = {}
    for line in filter(None, _FOLD.sub(b" ", head).replace(b"\r\n", b"\n").split(b"\n")):
        name, colon, value = line.partition(b":")
        if not colon:
            raise _malformed("a header of a part has no colon")
        headers.setdefault(name.strip().lower().decode("latin-1"), value.strip())
    return headers, end.end() if end else len(data)


def _part(outer: HttpRequest, data: bytes, secret: str) -> _Part:
    """Return a part; if its Content-ID or its request is invalid, it has the error in place of the request.

    Raises:
        PerspectiveError: the part breaks the format of the batch.
    """
    headers, begin = _parse_headers(data)
    media_type = headers.get("content-type", b"").lower()
    if media_type.startswith((b"multipart/", b"message/")):
        raise _malformed("a part must be an HTTP request, not another multipart body")
    raw = headers.get("content-id", b"")
    content_id = "".join(chr(byte) if 0x20 <= byte < 0x7F else f"%{byte:02X}" for byte in raw)
    try:
        if len(content_id) != len(raw):
            raise invalid_argument("The Content-ID of this part must be printable ASCII.", None)
        if headers.get("content-transfer-encoding", b"").lower() not in _IDENTITY:
            raise invalid_argument("The Content-Transfer-Encoding of this part must be binary.", None)
        return _Part(content_id, _request(outer, data[begin:].lstrip(b"\r\n"), secret))
    except PerspectiveError as error:
        return _Part(content_id, error)
    except Exception:  # Django raises several types for an invalid request line or content type
        return _Part(content_id, invalid_argument("The HTTP request of this part is malformed.", None))


def _request(outer: HttpRequest, data: bytes, secret: str) -> WSGIRequest:
    """Return the request of a part. If it has no API key, it gets the API key of the batch request."""
    line, newline, _ = data[:MAX_HEADER_BYTES].partition(b"\n")
    if not newline and len(data) > MAX_HEADER_BYTES:
        raise _malformed(f"the request line of a part is longer than {MAX_HEADER_BYTES} bytes")
    method, target, *_ = (*line.decode("latin-1").split(), "", "")
    headers, begin = _parse_headers(data, len(line) + len(newline))
    content = data[begin:]
    url = urlsplit(target)
    environ = {
        name: value
        for name, value in outer.META.items()
        if name in _OUTER_HEADERS or not name.startswith("HTTP_")
    }
    environ |= {
        _INNER_HEADERS[name]: value.decode("latin-1")
        for name, value in headers.items()
        if name in _INNER_HEADERS
    }
    environ |= {
        "REQUEST_METHOD": method,
        "PATH_INFO": unquote(url.path, "latin-1"),
        "QUERY_STRING": url.query,
        "CONTENT_TYPE": headers.get("content-type", b"").decode("latin-1"),
        "CONTENT_LENGTH": str(len(content)),
        "wsgi.input": io.BytesIO(content),
    }
    request = WSGIRequest(environ)
    if not get_secret(request) and secret:
        request.META["HTTP_X_GOOG_API_KEY"] = secret
    return request


def _handle(outer: HttpRequest, parts: Sequence[_Part]) -> list[HttpResponse]:
    def handle_alone(request: WSGIRequest | PerspectiveError | HttpResponse) -> HttpResponse:
        if isinstance(request, HttpResponse):
            return request
        if isinstance(request, PerspectiveError):
            return error_response(outer, request)
        return _VIEWS.get(request.path_info, views.unknown_path)(request)

    analyze = partial(views.analyze_batch, max_span_scores=MAX_SPAN_SCORES)
    requests = [part.request for part in parts]
    return list(map(handle_alone, map_batch(analyze, requests, where=_is_analyze)))


def _is_analyze(request: WSGIRequest | PerspectiveError) -> bool:
    return isinstance(request, WSGIRequest) and request.path_info == _ANALYZE


def _multipart(parts: Sequence[_Part], responses: Sequence[HttpResponse]) -> HttpResponse:
    boundary = f"batch_{secrets.token_urlsafe(24)}"
    body = b"".join(map(_format_part, itertools.repeat(boundary), parts, responses))
    return HttpResponse(
        body + f"--{boundary}--\r\n".encode(), content_type=f"multipart/mixed; boundary={boundary}"
    )


def _format_part(boundary: str, part: _Part, response: HttpResponse) -> bytes:
    request_id = part.content_id
    response_id = f"<response-{request_id[1:]}" if request_id.startswith("<") else f"response-{request_id}"
    head = [
        f"--{boundary}",
        "Content-Type: application/http",
        *([f"Content-ID: {response_id}"] if request_id else []),
        "",
        f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}",
        *[f"{header}: {value}" for header, value in response.items()],
        f"Content-Length: {len(response.content)}",
        "",
        "",
    ]
    return "\r\n".join(head).encode("utf-8", "replace") + response.content + b"\r\n"
