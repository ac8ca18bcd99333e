"""Google's batches: a multipart/mixed body of HTTP requests, each answered as if it had come alone."""

import io
import itertools
import secrets
from email.message import Message
from email.parser import BytesParser
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse

from apps.api.perspective import views
from apps.api.perspective.errors import invalid, not_found

_ANALYZE = "/v1alpha1/comments:analyze"
_VIEWS = {
    "/v1alpha1/comments:suggestscore": views.suggestscore,
    "/$discovery/rest": views.discovery,
}
# Of the outer request's own headers only what says who asks holds for the inner ones.
_INHERITED = (
    "HTTP_HOST",
    "HTTP_AUTHORIZATION",
    "HTTP_X_GOOG_API_KEY",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_PROTO",
)


@views.google
def batch(request: HttpRequest) -> HttpResponse:
    """Answer up to MAX_BATCH requests, the comments in one go; each counts against the quota of its key."""
    if request.method != "POST":
        raise not_found()
    content_type = request.META.get("CONTENT_TYPE", "")
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    parts = BytesParser().parsebytes(head + views.body_of(request)).get_payload()
    if not isinstance(parts, list):
        raise invalid("Failed to parse batch request: the body is not multipart/mixed.", None)
    if len(parts) > settings.MAX_BATCH:
        raise invalid(
            f"The batch has {len(parts)} requests, more than the {settings.MAX_BATCH} allowed.", None
        )
    boundary = f"batch_{secrets.token_urlsafe(24)}"
    messages = [part for part in parts if isinstance(part, Message)]
    requests = [_request(request, message) for message in messages]
    analyzed = iter(views.analyze_together([each for each in requests if each.path_info == _ANALYZE]))
    responses = [
        next(analyzed) if each.path_info == _ANALYZE else _VIEWS.get(each.path_info, views.nothing_here)(each)
        for each in requests
    ]
    body = b"".join(map(_part, itertools.repeat(boundary), messages, responses))
    return HttpResponse(
        body + f"--{boundary}--\r\n".encode(), content_type=f"multipart/mixed; boundary={boundary}"
    )


def _request(outer: HttpRequest, part: Message) -> WSGIRequest:
    payload = part.get_payload(decode=True)
    line, _, rest = (payload if isinstance(payload, bytes) else b"").lstrip().partition(b"\n")
    method, target, *_ = (*line.decode("ascii", "replace").split(), "", "")
    inner = BytesParser().parsebytes(rest)
    content = inner.get_payload(decode=True)
    data = content if isinstance(content, bytes) else b""
    url = urlsplit(target[target.find("/", target.find("://") + 3) :] if "://" in target else target)
    path = unquote(url.path)
    environ = {
        name: value
        for name, value in outer.META.items()
        if name in _INHERITED or not name.startswith("HTTP_")
    }
    environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in inner.items()}
    environ |= {
        "REQUEST_METHOD": method,
        "PATH_INFO": path.encode().decode("latin-1"),
        "QUERY_STRING": url.query,
        "CONTENT_TYPE": inner.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(data)),
        "wsgi.input": io.BytesIO(data),
    }
    return WSGIRequest(environ)


def _part(boundary: str, part: Message, response: HttpResponse) -> bytes:
    asked_id = part.get("Content-ID", "").strip()
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
