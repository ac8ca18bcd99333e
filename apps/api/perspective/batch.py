"""Google's batch format: a multipart/mixed body of HTTP requests, each answered as if it had come alone.

The format is flat (a part holds a request, never another multipart body), so the body is split at its
boundary by one linear search. The number of parts and the size of their heads are limited.
"""

import io
import itertools
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse
from django.http.multipartparser import MultiPartParserError
from django.utils.http import parse_header_parameters

from apps.api.perspective import views
from apps.api.perspective.access import admit_batch, secret_of, unknown_keys
from apps.api.perspective.errors import PerspectiveError, bad_key, invalid, not_found
from apps.api.perspective.rendering import refusal

MAX_HEAD_BYTES, MAX_HEAD_LINES = 16_384, 64  # of a part, and of the request in it
MAX_SPANS = 100_000  # span scores in the answers of one batch
_ANALYZE = "/v1alpha1/comments:analyze"
_VIEWS = {
    "/v1alpha1/comments:suggestscore": views.suggestscore,
    "/$discovery/rest": views.discovery,
}
# What an inner request may say about itself. Everything else (addresses, hosts, proxies) is the outer one's.
_INNER_HEADERS = {
    "content-type": "CONTENT_TYPE",
    "authorization": "HTTP_AUTHORIZATION",
    "x-goog-api-key": "HTTP_X_GOOG_API_KEY",
}
_OUTER_HEADERS = ("HTTP_HOST", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO")
_BLANK_LINE = re.compile(rb"(?:\A|\n)\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]")  # a header may go on in a line that begins with white space (RFC 5322)
_IDENTITY = (b"", b"binary", b"7bit", b"8bit")


@dataclass(frozen=True)
class _Part:
    """A part of a batch: its Content-ID as it is echoed, and its request or the reason why it has none."""

    content_id: str
    request: WSGIRequest | PerspectiveError


@views.google
def batch(request: HttpRequest) -> HttpResponse:
    """Answer up to MAX_BATCH requests, the comments in one go; each counts against the quota of its key.

    A key of the batch itself is checked before the body is read, and so is whether its quota is used up. What
    is wrong with one part is that part's error; a body that breaks the format is refused before any comment
    is stored.
    """
    if request.method != "POST":
        raise not_found()
    body = views.body_of(request)  # before anything else, so that a refused client can read why
    admit_batch(request)
    bodies = list(_split(body, _boundary(request)))
    if len(bodies) > settings.MAX_BATCH:
        raise invalid(f"The batch has more than the {settings.MAX_BATCH} requests allowed.", None)
    secret = secret_of(request)
    parts = [_part(request, part, secret) for part in bodies]
    unknown = unknown_keys((part.request for part in parts if isinstance(part.request, WSGIRequest)), request)
    parts = [
        replace(part, request=bad_key())
        if isinstance(part.request, WSGIRequest) and secret_of(part.request) in unknown
        else part
        for part in parts
    ]
    return _multipart(parts, _answer(request, parts))


def _boundary(request: HttpRequest) -> bytes:
    try:
        kind, parameters = parse_header_parameters(request.META.get("CONTENT_TYPE", ""))
        boundary = parameters.get("boundary", "").encode("latin-1")
    except (ValueError, LookupError, MultiPartParserError):
        kind, boundary = "", b""
    if kind != "multipart/mixed" or not 0 < len(boundary) <= 200:
        raise _malformed("the Content-Type is not multipart/mixed with a boundary")
    return boundary


def _malformed(reason: str) -> PerspectiveError:
    return invalid(f"Failed to parse batch request: {reason}.", None)


def _split(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """Yield the parts between the delimiters (RFC 2046, section 5.1.1), at most one more than MAX_BATCH.

    Raises:
        PerspectiveError: there is no delimiter.
    """
    delimiter = re.compile(rb"\n--" + re.escape(boundary) + rb"(--)?+[ \t]*+\r?(?=\n|\Z)")
    body = b"\n" + body
    begin = None
    found = delimiter.finditer(body)
    for match in itertools.islice(found, settings.MAX_BATCH + 2):
        if begin is not None:
            yield body[begin : match.start()].removesuffix(b"\r")
        begin = match.end() + 1
        if match[1]:
            return
    if begin is None:
        raise _malformed("the body is not multipart/mixed")
    if next(found, None) is None and begin < len(body):  # the last delimiter is missing
        yield body[begin:]


def _head(data: bytes, begin: int = 0) -> tuple[dict[str, bytes], int]:
    """Return the headers from `begin` on by lower-case name, unfolded, and where the body begins.

    Raises:
        PerspectiveError: there are too many of them, or one has no colon.
    """
    end = _BLANK_LINE.search(data, begin, begin + MAX_HEAD_BYTES)
    if end is None and len(data) - begin > MAX_HEAD_BYTES:
        raise _malformed(f"the headers of a part are longer than {MAX_HEAD_BYTES} bytes")
    head = data[begin : end.start() if end else len(data)]
    if head.count(b"\n") >= MAX_HEAD_LINES:
        raise _malformed(f"a part has more than {MAX_HEAD_LINES} header lines")
    headers: dict[str, bytes] = {}
    for line in filter(None, _FOLD.sub(b" ", head).replace(b"\r\n", b"\n").split(b"\n")):
        name, colon, value = line.partition(b":")
        if not colon:
            raise _malformed("a header of a part has no colon")
        headers.setdefault(name.strip().lower().decode("latin-1"), value.strip())
    return headers, end.end() if end else len(data)


def _part(outer: HttpRequest, data: bytes, secret: str) -> _Part:
    """Return a part; an error in its Content-ID or in its request is its own.

    Raises:
        PerspectiveError: it breaks the format of the batch.
    """
    headers, begin = _head(data)
    kind = headers.get("content-type", b"").lower()
    if kind.startswith((b"multipart/", b"message/")):
        raise _malformed("a part must be an HTTP request, not another multipart body")
    raw = headers.get("content-id", b"")
    content_id = "".join(chr(byte) if 0x20 <= byte < 0x7F else f"%{byte:02X}" for byte in raw)
    try:
        if len(content_id) != len(raw):
            raise invalid("The Content-ID of this part must be printable ASCII.", None)
        if headers.get("content-transfer-encoding", b"").lower() not in _IDENTITY:
            raise invalid("The Content-Transfer-Encoding of this part must be binary.", None)
        return _Part(content_id, _request(outer, data[begin:].lstrip(b"\r\n"), secret))
    except PerspectiveError as error:
        return _Part(content_id, error)
    except Exception:  # Django could not read the request line or the content type, for whatever reason
        return _Part(content_id, invalid("The HTTP request of this part is malformed.", None))


def _request(outer: HttpRequest, data: bytes, secret: str) -> WSGIRequest:
    """Return the request of a part; without a key of its own it has the key of the batch."""
    line, newline, _ = data[:MAX_HEAD_BYTES].partition(b"\n")
    if not newline and len(data) > MAX_HEAD_BYTES:
        raise _malformed(f"the request line of a part is longer than {MAX_HEAD_BYTES} bytes")
    method, target, *_ = (*line.decode("latin-1").split(), "", "")
    headers, begin = _head(data, len(line) + len(newline))
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
    if not secret_of(request) and secret:
        request.META["HTTP_X_GOOG_API_KEY"] = secret
    return request


def _answer(outer: HttpRequest, parts: Sequence[_Part]) -> list[HttpResponse]:
    requests = [part.request for part in parts]
    comments = [each for each in requests if isinstance(each, WSGIRequest) and each.path_info == _ANALYZE]
    analyzed = iter(views.analyze_together(comments, max_spans=MAX_SPANS))
    return [
        refusal(outer, each)
        if isinstance(each, PerspectiveError)
        else next(analyzed)
        if each.path_info == _ANALYZE
        else _VIEWS.get(each.path_info, views.nothing_here)(each)
        for each in requests
    ]


def _multipart(parts: Sequence[_Part], responses: Sequence[HttpResponse]) -> HttpResponse:
    boundary = f"batch_{secrets.token_urlsafe(24)}"
    body = b"".join(map(_rendered, itertools.repeat(boundary), parts, responses))
    return HttpResponse(
        body + f"--{boundary}--\r\n".encode(), content_type=f"multipart/mixed; boundary={boundary}"
    )


def _rendered(boundary: str, part: _Part, response: HttpResponse) -> bytes:
    asked_id = part.content_id
    name = f"<response-{asked_id[1:]}" if asked_id.startswith("<") else f"response-{asked_id}"
    head = [
        f"--{boundary}",
        "Content-Type: application/http",
        *([f"Content-ID: {name}"] if asked_id else []),
        "",
        f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}",
        *[f"{header}: {value}" for header, value in response.items()],
        f"Content-Length: {len(response.content)}",
        "",
        "",
    ]
    return "\r\n".join(head).encode("utf-8", "replace") + response.content + b"\r\n"
