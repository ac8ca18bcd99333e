"""The memory and the time that one request can use, measured in a real server for every entry point.

The bodies are generated from the OpenAPI document, Perspective's discovery document and the URL resolver, so
that new endpoints are measured, too.
"""

import json
import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from django.urls import URLResolver, get_resolver

from apps.api.parsers import MAX_MEMORY_BYTES
from apps.api.perspective.messages import DISCOVERY
from apps.connectors.tests.payloads import REQUESTS, SECRET, SIGNATURE_HEADERS, signature
from toxicmod.testing.site import PID, manage, site

SIZE = 8 * 1024 * 1024 - 1_000  # just below the limit of the site
MAX_SECONDS = 5.0  # for a rejected request; the machine may be busy
MAX_ERROR_BYTES = 64 * 1024  # of the response to a rejected request
MAX_RESPONSE_BYTES = 40 * 1024 * 1024  # of any other response
_MAKE_KEY = f"""
SECRET = {SECRET!r}
from apps.connectors.actions import save_connection
from apps.connectors.models import Connection
from apps.accounts.actions import create_api_key
from apps.core.permissions import SYSTEM
from apps.accounts.models import User
user = User.objects.create_superuser("root", password="a password of the test")
for platform in Connection.Platform.values:
    connection = save_connection(actor=SYSTEM, connection=Connection(platform=platform), secret=SECRET)
    print("connection", platform, connection.pk)
print("key", create_api_key(actor=SYSTEM, name="memory", rate_per_minute=10**6, acts_as=user)[1])
"""


class Server:
    """A site with one process, whose memory is measured.

    Attributes:
        connections: the ID of the connection to each platform.
    """

    def __init__(self, url: str, key: str, pid: int, connections: dict[str, str]) -> None:
        self.url, self.pid, self.connections = url, pid, connections
        self.headers = {"Authorization": f"Api-Key {key}", "Content-Type": "application/json"}
        self.baseline = self._status("VmRSS")

    def _status(self, field: str) -> int:
        """Return a figure of /proc/PID/status in bytes."""
        match = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert match is not None
        return int(match[1]) * 1024

    def measure(self, send: Any) -> tuple[requests.Response, int, float]:
        """Return the response, the peak growth of the process's memory in bytes, and the seconds."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # resets the peak
        began = time.monotonic()
        response = send()
        return response, self._status("VmHWM") - self.baseline, time.monotonic() - began


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("memory")
    with site(folder, WEB_CONCURRENCY="1", WEB_THREADS="2", LOG_LEVEL="CRITICAL") as (url, env):
        manage("install_default_policy", env=env)
        manage("collectstatic", "--noinput", "-v0", env=env)
        printed = manage("shell", "-v0", "-c", _MAKE_KEY, env=env)
        key = printed.split()[-1]
        master = (folder / PID).read_text().strip()
        (pid,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        for path in (
            "/",
            "/admin/login/",
            "/api/v1/schema?format=json",
            "/ready",
        ):  # loads modules and caches
            assert requests.get(f"{url}{path}", timeout=60).status_code == 200
        headers = {"Authorization": f"Api-Key {key}"}
        for path, body in SMALL.items():  # load libraries
            assert requests.post(f"{url}{path}", json=body, headers=headers, timeout=60).status_code == 200
        yield Server(url, key, int(pid), dict(re.findall(r"connection (\w+) (\S+)", printed)))


def repeated(unit: str, size: int = SIZE) -> str:
    """Return a JSON list that repeats a value, of about `size` bytes."""
    return "[" + ",".join([unit] * ((size - 500) // (len(unit) + 1))) + "]"


def wide(unit: str) -> str:
    """Return a JSON object with as many different members as fit into `SIZE` bytes."""
    return "{" + ",".join(f'"{n:x}":{unit}' for n in range((SIZE - 500) // (len(unit) + 10))) + "}"


VALUES = {
    "integers": repeated("1"),
    "fractions": repeated("0.5"),
    "empty strings": repeated('""'),
    "short strings": repeated('"ab"'),
    "surrogates": repeated('"\\ud800"'),
    "empty objects": repeated("{}"),
    "empty lists": repeated("[]"),
    "objects": repeated('{"a":{"b":1}}'),
    "members": wide("1"),
    "members with objects": wide("{}"),
    "depth of lists": "[" * 4_000_000 + "]" * 4_000_000,
    "moderate depth": "[" * 900 + "]" * 900,
    "depth of objects": '{"a":' * 1_000_000 + "1" + "}" * 1_000_000,
    "a repeated member": "{" + ",".join(['"a":1'] * 1_300_000) + "}",
    "digits": "1" * (SIZE - 500),
    "digits of a fraction": f"0.{'1' * (SIZE - 500)}",
    "a large exponent": "1e400",
    "a long integer": "1" * 90,
    "a long string": f'"{"a" * (SIZE - 500)}"',
    "a long string of commas": f'"{"," * (SIZE - 500)}"',
    "a string that does not end": f'"{chr(92) * (SIZE - 501)}',
    "wide characters": f'"{"😀" * ((SIZE - 500) // 4)}"',
    "escapes": f'"{chr(92)}u0000{"a" * (SIZE - 600)}"',
}


# Values that no general limit rejects, so that each field has to check them.
OF_A_FIELD = ("a long string", "wide characters", "a long integer")
LISTS = {
    "a list": repeated("1", 300_000),
    "an object": "{" + ",".join(f'"{n}":1' for n in range(40_000)) + "}",
}


class Schema(NamedTuple):
    """The schema of a body: its definitions, and how a reference names one."""

    definitions: dict[str, Any]
    prefix: str

    def resolve(self, field: dict[str, Any]) -> dict[str, Any]:
        for schema in (field, *field.get("allOf", ())):
            if "$ref" in schema:
                return self.definitions[schema["$ref"].removeprefix(self.prefix)]
        return field

    def bodies(self, root: dict[str, Any], depth: int = 3) -> Iterator[tuple[str, str]]:
        """Yield texts with a hostile value in place of each field; `%s` stands for the value."""
        root = self.resolve(root)
        yield "", "%s"
        if depth == 0:
            return
        members = dict(root.get("properties", {}))
        if isinstance(extra := root.get("additionalProperties"), dict):
            members["TOXICITY"] = extra
        for name, field in members.items():
            for path, inner in self.bodies(field, depth - 1):
                yield f"{name}.{path}".strip("."), f'{{"{name}":{inner}}}'
        if isinstance(items := root.get("items"), dict):
            for path, inner in self.bodies(items, depth - 1):
                yield f"0.{path}".strip("."), f"[{inner}]"


def endpoints(server: Server) -> Iterator[tuple[str, str, str, str]]:
    """Yield method, path, field and body template of every endpoint in the documents."""
    document = requests.get(f"{server.url}/api/v1/schema?format=json", timeout=60).json()
    v1 = Schema(document["components"]["schemas"], "#/components/schemas/")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in ("post", "put", "patch"):
                content = operation.get("requestBody", {}).get(
                    "content", {"application/json": {"schema": {}}}
                )
                schema = content["application/json"]["schema"]
                for field, body in v1.bodies(schema):
                    yield method, re.sub(r"\{\w+\}", "1", path), field, body
    google = Schema(DISCOVERY["schemas"], "")
    for method in DISCOVERY["resources"]["comments"]["methods"].values():
        for field, body in google.bodies(method["request"]):
            yield method["httpMethod"].lower(), f"/{method['path']}", field, body


def failures(server: Server, name: str, send: Any, is_rejected: bool = True) -> list[str]:
    response, memory, seconds = server.measure(send)
    wrong = []
    if response.status_code >= 500:
        wrong.append(f"status {response.status_code}")
    if memory > MAX_MEMORY_BYTES:
        wrong.append(f"{memory >> 20} MB of memory")
    if seconds > MAX_SECONDS:
        wrong.append(f"{seconds:.1f} s")
    if len(response.content) > (MAX_ERROR_BYTES if is_rejected else MAX_RESPONSE_BYTES):
        wrong.append(f"a response of {len(response.content):,} bytes")
    return [f"{name}: {', '.join(wrong)}"] if wrong else []


@pytest.mark.slow
def test_hostile_json_uses_bounded_memory_and_time(server: Server) -> None:
    problems, paths = [], set()
    for method, path, field, template in endpoints(server):
        paths.add(path)
        values = {name: VALUES[name] for name in OF_A_FIELD} | LISTS if field else VALUES
        for name, value in values.items():
            body = template.replace("%s", value).encode()
            send = partial(
                requests.request, method, f"{server.url}{path}", data=body, headers=server.headers, timeout=60
            )
            problems += failures(server, f"{path} {field or 'body'}: {name}", send)
    assert {"/api/v1/predict", "/api/v1/moderate", "/api/v1/appeals"} <= paths
    assert {"/v1/moderations", "/v1alpha1/comments:analyze"} <= paths
    assert not problems, "\n".join(problems)


COMMENT = "a b " * 5_000
LARGEST_REPORT = {
    "event": "report.created",
    "object": {"id": "1", "statuses": [{"id": str(n), "content": f"{n} {COMMENT}"} for n in range(300)]},
}


def variants(data: Any) -> Iterator[tuple[str, str]]:
    """Yield a recorded request with `%s` in place of each of its values, and the name of the value."""
    yield "", "%s"
    if isinstance(data, dict):
        for name, value in data.items():
            unchanged = [
                f"{json.dumps(member)}:{json.dumps(data[member])}" for member in data if member != name
            ]
            for path, inner in variants(value):
                yield (
                    f"{name}.{path}".strip("."),
                    f"{{{','.join([f'{json.dumps(name)}:{inner}', *unchanged])}}}",
                )


@pytest.mark.slow
@pytest.mark.parametrize("platform", REQUESTS)
def test_hostile_requests_of_platforms_use_bounded_memory_and_time(server: Server, platform: str) -> None:
    data, recorded_headers = REQUESTS[platform]

    def send(body: bytes) -> requests.Response:
        signed = {SIGNATURE_HEADERS[platform]: signature(body)}
        url = f"{server.url}/connectors/{server.connections[platform]}"
        return requests.post(url, body, headers=server.headers | recorded_headers | signed, timeout=60)

    assert send(json.dumps(data).encode()).status_code in (200, 204)
    problems = []
    for field, template in variants(data):
        values = {name: VALUES[name] for name in OF_A_FIELD} | LISTS if field else VALUES
        for name, value in values.items():
            body = template.replace("%s", value).encode()
            problems += failures(server, f"{platform} {field or 'body'}: {name}", partial(send, body))
    if platform == "mastodon":
        report = json.dumps(LARGEST_REPORT).encode()
        problems += failures(server, "mastodon: the largest report", partial(send, report))
    assert not problems, "\n".join(problems)


ATTRIBUTES = {f"{name}@{n}": {} for name in ("TOXICITY", "INSULT") for n in range(50)}
SPANS = {"comment": {"text": "Oh no. " * 1_000}, "requestedAttributes": ATTRIBUTES, "spanAnnotations": True}


def parts(body: dict[str, Any], count: int) -> bytes:
    line = "--b\n\nPOST /v1alpha1/comments:analyze HTTP/1.1\n\n"
    return "".join(f"{line}{json.dumps(body)}\n" for _ in range(count)).encode() + b"--b--"


SMALL = {
    "/api/v1/predict_proba": {"texts": ["Oh no, you idiot."], "explain": True},
    "/api/v1/moderate": {"text": "Oh no, you idiot."},
    "/v1/moderations": {"input": ["Oh no, you idiot."]},
    "/v1alpha1/comments:analyze": {
        "comment": {"text": "Oh no. You idiot."},
        "requestedAttributes": {"TOXICITY": {}},
        "spanAnnotations": True,
    },
}
LARGEST = {
    "a batch": ("/api/v1/predict", {"texts": [COMMENT] * 400}),
    "a batch of probabilities": ("/api/v1/predict_proba", {"texts": [COMMENT] * 400}),
    "a batch of short comments": ("/api/v1/predict_proba", {"texts": ["a" * 8_000] * 1_000}),
    "explanations": ("/api/v1/predict_proba", {"texts": [COMMENT] * 10, "explain": True}),
    "too many explanations": ("/api/v1/predict_proba", {"texts": [COMMENT] * 400, "explain": True}),
    "moderations": ("/v1/moderations", {"input": ["a" * 8_000] * 1_000}),
    "spans": ("/v1alpha1/comments:analyze", SPANS),
    "a batch of calls": ("/batch", parts({**SPANS, "spanAnnotations": False}, 300)),
    "a batch of calls for spans": ("/batch", parts(SPANS, 300)),
    "a batch of discovery documents": (
        "/batch",
        b"--b\n\nGET /$discovery/rest HTTP/1.1\n" * 1_000 + b"--b--",
    ),
    "a batch of nothing": ("/batch", b"--b\n\n" * 1_000 + b"--b--"),
}


BATCHES = {
    "lines": b"--b\r\n" + b"\n" * (SIZE - 100) + b"--b--\r\n",
    "headers": b"--b\n" + b"a:\n" * (SIZE // 3 - 100) + b"\n\n--b--\n",
    "parts": b"--b\n\n" * (SIZE // 6),
    "nested parts": b"--b\nContent-Type: multipart/mixed; boundary=c\n\n"
    + b"--c\n\n" * (SIZE // 6 - 100)
    + b"--b--",
}


@pytest.mark.slow
def test_hostile_batches_use_bounded_memory_and_time(server: Server) -> None:
    headers = server.headers | {"Content-Type": "multipart/mixed; boundary=b"}
    problems = []
    for name, body in BATCHES.items():
        send = partial(requests.post, f"{server.url}/batch", body, headers=headers, timeout=60)
        problems += failures(server, f"/batch: {name}", send)
    assert not problems, "\n".join(problems)


WORDS = [f"{n:05}" for n in range(90_000)]
MANY = {
    "/api/v1/predict": {"texts": WORDS},
    "/api/v1/moderate": {"text": "Hello", "context": WORDS},
    "/api/v1/feedback": {"prediction_id": WORDS},
    "/v1/moderations": {"input": WORDS},
    "/v1alpha1/comments:analyze": {"comment": {"text": "Hello"}, "languages": WORDS},
}


@pytest.mark.slow
@pytest.mark.parametrize("path", MANY)
def test_many_requests_use_bounded_memory(server: Server, path: str) -> None:
    body = json.dumps(MANY[path])
    for _ in range(60):
        send = partial(requests.post, f"{server.url}{path}", body, headers=server.headers, timeout=60)
        response, memory, _ = server.measure(send)
        assert response.status_code == 400
        assert memory <= MAX_MEMORY_BYTES, f"{memory >> 20} MB"


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_largest_valid_requests_use_bounded_memory(server: Server, name: str) -> None:
    path, body = LARGEST[name]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "multipart/mixed; boundary=b" if path == "/batch" else "application/json"
    headers = server.headers | {"Content-Type": kind}
    response, memory, _ = server.measure(partial(requests.post, f"{server.url}{path}", data, headers=headers))
    assert response.status_code == (400 if name.startswith("too many") else 200), response.content[:500]
    assert memory <= MAX_MEMORY_BYTES, f"{memory >> 20} MB"
    assert len(response.content) <= MAX_RESPONSE_BYTES


def paths_of_pages(patterns: Sequence[Any], prefix: str = "") -> Iterator[str]:
    """Yield a path for each URL pattern outside the APIs, with values for its arguments."""
    for pattern in patterns:
        path = prefix + re.sub(r"[\^$?]|\\Z|\.\*", "", str(pattern.pattern))
        if isinstance(pattern, URLResolver):
            yield from paths_of_pages(pattern.url_patterns, path)
        else:
            path = re.sub(r"<uuid:\w+>", "01a21138-66c6-7654-85ed-f83c5f552c16", path)
            path = re.sub(r"\(\?P<\w+>[^)]*\)|\([^)]*\)|<[^>]+>", "1", path)
            if not path.startswith(("api/", "v1/", "v1alpha1/", "batch", "discovery/", "static/")):
                yield f"/{path}"


FORMS = {
    "fields": b"a=1&" * (SIZE // 4),
    "a repeated field": b"labels=toxic&" * (SIZE // 13),
    "a long field": b"text=" + b"\x22" * (SIZE - 10),
    "a field of 1 MB": b"text=" + b"\x22" * 1_000_000,
    "escapes": b"text=" + b"%00" * (SIZE // 3),
}


@pytest.mark.slow
def test_hostile_forms_use_bounded_memory_and_time(server: Server) -> None:
    session = requests.Session()
    login = f"{server.url}/admin/login/"
    session.get(login, timeout=60)
    token = session.cookies["csrftoken"]
    form = {"username": "root", "password": "a password of the test", "csrfmiddlewaretoken": token}
    assert session.post(f"{login}?next=/ready", form, headers={"Referer": login}, timeout=60).url.endswith(
        "/ready"
    )
    headers = {"Referer": login, "Content-Type": "application/x-www-form-urlencoded"}
    paths = sorted(set(paths_of_pages(get_resolver().url_patterns)) - {"/admin/logout/"})
    assert {"/", "/live", "/appeal/1", "/admin/moderation/queueitem/console/bulk/"} <= set(paths)
    problems = []
    for path in paths:
        for name, fields in FORMS.items():
            if name != "a repeated field" and "console" not in path and path.startswith("/admin/"):
                continue  # Django's admin views read all forms in the same way
            body = b"csrfmiddlewaretoken=" + session.cookies["csrftoken"].encode() + b"&" + fields
            send = partial(
                session.post, f"{server.url}{path}", body, headers=headers, timeout=60, allow_redirects=False
            )
            problems += failures(server, f"{path}: {name}", send, is_rejected=False)
    assert not problems, "\n".join(problems)
