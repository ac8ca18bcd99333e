"""Requests in the format of Perspective, and readers of batch responses."""

import json
from typing import Any

from django.test import Client

ANALYZE = "/v1alpha1/comments:analyze"
IDIOT = "what kind of idiot name is foo?"
ANALYZE_LINE = "POST /v1alpha1/comments:analyze?prettyPrint=false HTTP/1.1"


def analyze_request(text: str = IDIOT, *attributes: str, **more: Any) -> dict[str, Any]:
    """Return the body of an analyze request."""
    names = attributes or ("TOXICITY",)
    return {"comment": {"text": text}, "requestedAttributes": {name: {} for name in names}, **more}


def post_json(client: Client, body: Any, path: str = ANALYZE, **kwargs: Any) -> Any:
    """Send a body, which is encoded as JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body)
    return client.post(path, data, content_type=kwargs.pop("content_type", "application/json"), **kwargs)


def analyze_json(text: str, attribute: str = "TOXICITY", **more: Any) -> str:
    """Return the body of an analyze request as JSON."""
    return json.dumps({"comment": {"text": text}, "requestedAttributes": {attribute: {}}, **more})


def batch_part(
    content_id: str, body: str = "", line: str = ANALYZE_LINE, headers: str = "", head: str = ""
) -> str:
    """Return a part: `headers` belong to the inner request, `head` to the part; each line ends with CRLF."""
    return (
        f"--b\r\nContent-Type: application/http\r\nContent-ID: {content_id}\r\n{head}\r\n"
        f"{line}\r\nContent-Type: application/json\r\n{headers}\r\n{body}\r\n"
    )


def send_batch(client: Client, body: str | bytes, path: str = "/batch", **headers: str) -> Any:
    """Send the parts of a batch request."""
    data = body.encode() if isinstance(body, str) else body
    return client.post(path, data, content_type="multipart/mixed; boundary=b", headers=headers)


def batch_responses(response: Any) -> list[tuple[str, int, dict[str, Any]]]:
    """Return Content-ID, status and JSON of each part of a batch response."""
    assert response.status_code == 200, response.content
    boundary = response["Content-Type"].partition("boundary=")[2]
    results = []
    for answer in response.content.decode().split(f"--{boundary}")[1:-1]:
        head, http, body = answer.split("\r\n\r\n", 2)
        names = [line.removeprefix("Content-ID: ") for line in head.splitlines() if "Content-ID" in line]
        results.append(("".join(names), int(http.split()[1]), json.loads(body)))
    return results
