"""Unusual connections: bodies in other encodings, pipelined requests, slow and idle clients."""

import gzip
import json
import re
import resource
import shutil
import socket
import ssl
import subprocess
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
import pytest
import yaml
from django.conf import settings
from django.urls import URLResolver, get_resolver

from apps.connectors.tests.payloads import SECRET, signature, with_text
from toxicmod.testing.site import ROOT, free_port, manage, site, wait_until_answered

TIMEOUT = 5.0  # seconds to wait for a response
CLIENT_TIMEOUT = 30  # seconds after which the server must have closed a connection whose client does nothing
IDLE_CONNECTIONS = 1_020  # more than gunicorn's thread worker accepts by default
FEW_THREADS: dict[str, Any] = {"WEB_CONCURRENCY": "1", "WEB_THREADS": "2", "LOG_LEVEL": "CRITICAL"}
_MAKE_KEY = f"""
SECRET = {SECRET!r}
from apps.accounts.actions import create_api_key
from apps.connectors.actions import save_connection
from apps.connectors.models import Connection
from apps.core.permissions import SYSTEM
from apps.accounts.models import User
user = User.objects.create_superuser("root", password="a password of the test")
connection = save_connection(actor=SYSTEM, connection=Connection(platform="coral"), secret=SECRET)
key = create_api_key(actor=SYSTEM, name="connections", rate_per_minute=10**6, acts_as=user)[1]
print("key", connection.pk, key)
"""


class Server:
    def __init__(self, url: str, key: str, connection: str = "") -> None:
        self.platform_path = f"connectors/{connection}"
        self.address = (urlsplit(url).hostname, urlsplit(url).port)
        self.key, self.is_tls = key, url.startswith("https:")

    def connect(self) -> socket.socket:
        connection = socket.create_connection(self.address, timeout=TIMEOUT)
        if not self.is_tls:
            return connection
        return ssl.create_default_context().wrap_socket(connection, server_hostname="127.0.0.1")

    def head(self, path: str, *headers: str, method: str = "POST") -> bytes:
        """Return the head of a request, which names the key as both APIs do."""
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Api-Key {self.key}",
            *headers,
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    def request(self, path: str, body: bytes, kind: str = "application/json") -> bytes:
        return self.head(path, f"Content-Type: {kind}", f"Content-Length: {len(body)}") + body


def make_key(env: dict[str, str]) -> tuple[str, str]:
    """Return a new API key and the ID of a new connection to a Coral."""
    *_, connection, key = manage("shell", "-v0", "-c", _MAKE_KEY, env=env).split()
    return key, connection


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A site with one process and few threads, so that a blocked thread is noticed."""
    with site(tmp_path_factory.mktemp("connections"), **FEW_THREADS) as (url, env):
        manage("install_default_policy", env=env)
        yield Server(url, *make_key(env))


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with TLS."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    options = {"GUNICORN_CMD_ARGS": f"--certfile {certificate} --keyfile {key}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(certificate))
        with site(folder, **FEW_THREADS, **options) as (url, env):
            manage("install_default_policy", env=env)
            yield Server(url, *make_key(env))


@pytest.fixture(scope="module")
def nginx_server(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server behind nginx, with Ansible's configuration."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    role = ROOT / "ansible" / "roles" / "nginx"
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    variables = {"nginx_upstream": f"127.0.0.1:{server.address[1]}", "nginx_host": "localhost"}
    template = jinja2.Template((role / "templates" / "site.conf.j2").read_text(), trim_blocks=True)
    port = free_port()
    site_configuration = template.render(defaults | variables)
    site_configuration = site_configuration.replace(" 80 ", f" {port} ").replace("[::]:80", f"[::1]:{port}")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {folder};" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; events {{}}\nhttp {{ {paths}\n{site_configuration} }}"
    )
    with subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf"]) as process:
        try:
            wait_until_answered(process, f"http://localhost:{port}/health")
            yield Server(f"http://127.0.0.1:{port}", server.key, server.platform_path.rpartition("/")[2])
        finally:
            process.terminate()


@pytest.fixture(params=["plain", *(pytest.param(name, marks=pytest.mark.slow) for name in ("TLS", "nginx"))])
def any_server(request: pytest.FixtureRequest) -> Server:
    """The server, one with TLS, and one behind nginx."""
    fixtures = {"plain": "server", "TLS": "tls_server", "nginx": "nginx_server"}
    return request.getfixturevalue(fixtures[request.param])


def read_responses(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Return status and body of up to `count` responses, of those that arrive in time."""
    received = []
    connection.settimeout(TIMEOUT)
    with connection.makefile("rb") as file:
        try:
            for _ in range(count):
                line = file.readline()
                if not line:
                    break
                length = 0
                while header := file.readline().strip():
                    name, _, value = header.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                body = file.read(length)
                if len(body) < length:  # the server has closed the connection
                    break
                received.append((int(line.split()[1]), body))
        except OSError:
            pass
    return received


def request_once(server: Server, data: bytes) -> tuple[int, bytes]:
    """Send a request on a new connection; return the status and the body of the response."""
    with closing(server.connect()) as connection:
        connection.sendall(data)
        received = read_responses(connection, 1)
    assert received, "there was no response"
    return received[0]


ANALYZE = {"comment": {"text": "Good day"}, "requestedAttributes": {"TOXICITY": {}}}
BODIES: dict[str, Any] = {
    "predict": {"text": "Good day"},
    "predict_proba": {"text": "Good day"},
    "moderate": {"text": "Good day"},
    "v1/moderations": {"input": "Good day"},
    "v1alpha1/comments:analyze": ANALYZE,
    "v1alpha1/comments:suggestscore": {
        "comment": {"text": "Good day"},
        "attributeScores": {"TOXICITY": {"summaryScore": {"value": 0}}},
    },
    "batch": f"--b\r\n\r\nPOST /v1alpha1/comments:analyze HTTP/1.1\r\n\r\n{json.dumps(ANALYZE)}\r\n--b--",
}


def posts(patterns: Sequence[Any] | None = None, prefix: str = "") -> Iterator[str]:
    """Yield the path of each API endpoint that accepts a POST with a body."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from posts(pattern.url_patterns, path)
            continue
        if path.startswith("api/v1/"):
            view = getattr(pattern.callback, "cls", None)
            has_body = view is not None and hasattr(view, "post")
        else:
            has_body = path in BODIES
        if has_body:
            yield re.sub(r"<int:\w+>", "1", re.sub(r"<(slug|str|uuid):\w+>", "1", path))


def body_of(path: str) -> tuple[bytes, str]:
    """Return a body for a path and its type: a valid one, or one whose error shows that it was read."""
    body = BODIES.get(path.removeprefix("api/v1/"), {"not_a_field": "is read"})
    if isinstance(body, str):
        return body.encode(), "multipart/mixed; boundary=b"
    return json.dumps(body).encode(), "application/json"


def chunked(body: bytes) -> bytes:
    middle = len(body) // 2
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:middle], body[middle:], b""))


ENCODED = {
    "chunked": lambda body: (["Transfer-Encoding: chunked"], chunked(body)),
    "gzip": lambda body: (["Content-Encoding: gzip"], gzip.compress(body)),
    "deflate": lambda body: (["Content-Encoding: deflate"], zlib.compress(body)),
    "gzip and chunked": lambda body: (
        ["Content-Encoding: gzip", "Transfer-Encoding: chunked"],
        chunked(gzip.compress(body)),
    ),
}
PATHS = sorted(set(posts()))


def without_ids(response: tuple[int, bytes]) -> tuple[int, bytes]:
    """Return a response without the parts that differ between calls."""
    boundary = rb"batch_[\w-]+"
    times = rb'"\d{4}-\d\d-\d\dT[^"]*"|"(version|waits_seconds)":\s*\d+'
    body = re.sub(rb'"(id|prediction_id|queue_id|appeal_token)":\s*("[^"]*"|\d+|null)', b"", response[1])
    return response[0], re.sub(boundary, b"batch_", re.sub(times, b"", body))


def depends_on_body(server: Server, path: str) -> bool:
    """Return whether the response depends on the body; some endpoints ignore it."""
    body, kind = body_of(path)
    read = request_once(server, server.request(f"/{path}", body, kind))
    empty = request_once(server, server.request(f"/{path}", b"", kind))
    return without_ids(read) != without_ids(empty)


def test_paths_cover_every_api() -> None:
    assert {*(f"api/v1/{name}" for name in ("predict", "moderate", "feedback", "appeals"))} <= set(PATHS)
    assert {"batch", "v1/moderations"} <= set(PATHS)
    assert {"v1alpha1/comments:analyze", "v1alpha1/comments:suggestscore"} <= set(PATHS)


def encode(server: Server, encoding: str, path: str, body: bytes, *headers: str) -> bytes:
    """Return a request whose body is encoded."""
    encoding_headers, data = ENCODED[encoding](body)
    if "chunked" not in encoding:
        encoding_headers.append(f"Content-Length: {len(data)}")
    return server.head(f"/{path}", *headers, *encoding_headers) + data


@pytest.mark.parametrize("encoding", ENCODED)
def test_request_body_in_another_transfer_encoding(any_server: Server, encoding: str) -> None:
    wrong = []
    for path in PATHS:
        body, kind = body_of(path)
        if not depends_on_body(any_server, path):
            continue
        plain = request_once(any_server, any_server.request(f"/{path}", body, kind))
        request = encode(any_server, encoding, path, body, f"Content-Type: {kind}")
        encoded = request_once(any_server, request)
        if without_ids(encoded) != without_ids(plain):
            wrong.append(f"/{path}: {encoded[0]} {encoded[1][:80]!r}, not {plain[0]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("encoding", ENCODED)
def test_platform_signs_body_before_it_is_encoded(any_server: Server, encoding: str) -> None:
    body = json.dumps(with_text("coral", "You stupid idiot, I will kill you.")).encode()
    for signed, status in ((body, 200), (body + b" ", 403)):
        headers = ("Content-Type: application/json", f"X-Coral-Signature: {signature(signed)}")
        request = encode(any_server, encoding, any_server.platform_path, body, *headers)
        response = request_once(any_server, request)
        assert response[0] == status, response


HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
REJECTED = {
    "a wrong key": b"Authorization: Api-Key wrong\r\n",
    "a wrong type": b"Content-Type: text/csv\r\n",
}


@pytest.mark.parametrize("rejected", REJECTED)
def test_request_after_rejected_request_on_same_connection(any_server: Server, rejected: str) -> None:
    """The server rejects the first request before its body is complete; the next request follows the rest."""
    head = b"POST /api/v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n" + REJECTED[rejected]
    with closing(any_server.connect()) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head + b"\r\n" + b" " * 10)
        time.sleep(0.5)
        connection.sendall(b" " * 90 + HEALTH)
        received = [status for status, _ in read_responses(connection, 2)]
    assert received[0] in (401, 415)
    # A server may close the connection instead, if the response says so: the client then opens another one.
    assert received[1:] == [200]


PIPELINED = {
    "health, health": ["/health", "/health"],
    "predict, predict": ["/api/v1/predict", "/api/v1/predict"],
    "predict, health": ["/api/v1/predict", "/health"],
    "health, predict": ["/health", "/api/v1/predict"],
    "analyze, predict": ["/v1alpha1/comments:analyze", "/api/v1/predict"],
}


@pytest.mark.parametrize("kept", [False, True], ids=["new connection", "kept connection"])
@pytest.mark.parametrize("paths", PIPELINED.values(), ids=PIPELINED)
def test_pipelined_requests_all_get_responses(any_server: Server, paths: list[str], kept: bool) -> None:
    """Pipelining, RFC 9112, section 9.3.2."""
    data = b"".join(
        HEALTH if path == "/health" else any_server.request(path, body_of(path.removeprefix("/"))[0])
        for path in paths
    )
    with closing(any_server.connect()) as connection:
        if kept:
            connection.sendall(any_server.request("/api/v1/predict", body_of("predict")[0]))
            assert [status for status, _ in read_responses(connection, 1)] == [200]
        connection.sendall(data)
        received = [status for status, _ in read_responses(connection, len(paths))]
    assert received == [200] * len(paths)


@contextmanager
def many_files() -> Iterator[None]:
    """Let this process open as many files as its hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def free_server(server: Server) -> Iterator[Server]:
    """The server, before and after a test whose connections occupy it."""
    assert request_once(server, HEALTH)[0] == 200
    yield server
    end = time.monotonic() + 30
    while not is_answered_in_time(server, HEALTH):
        assert time.monotonic() < end, "the server does not recover from the test"


def is_answered_in_time(server: Server, data: bytes) -> bool:
    """Return whether a request on a new connection gets a 200 in time."""
    try:
        with closing(server.connect()) as connection:
            connection.sendall(data)
            return [status for status, _ in read_responses(connection, 1)] == [200]
    except OSError:
        return False


def is_open(connection: socket.socket) -> bool:
    """Return whether the server keeps a connection open, after reading what it has sent."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 20):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def incomplete_request(path: str) -> bytes:
    """Return a request whose body stops after its first byte."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 1000\r\n\r\n{"
    ).encode()


INCOMPLETE = {
    "request line": b"GET /heal",
    "head": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Header: ",
    "body": incomplete_request("/api/v1/feedback"),
    "body of a comment to score": incomplete_request("/api/v1/predict"),
    "body of a Perspective call": incomplete_request("/v1alpha1/comments:analyze"),
    "body of a batch": incomplete_request("/batch"),
    "body of a form": incomplete_request("/admin/login/"),
}


@pytest.mark.slow
@pytest.mark.parametrize("data", INCOMPLETE.values(), ids=INCOMPLETE)
def test_incomplete_requests_do_not_block_others(free_server: Server, data: bytes) -> None:
    """More clients than the server has threads stop in the middle of a request."""
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(closing(free_server.connect())).sendall(data)
        time.sleep(1)
        is_answered = is_answered_in_time(free_server, HEALTH)
    assert is_answered


@pytest.mark.slow
def test_incomplete_requests_time_out(any_server: Server) -> None:
    with ExitStack() as stack:
        connections = {}
        for name, data in INCOMPLETE.items():
            connections[name] = stack.enter_context(closing(any_server.connect()))
            connections[name].sendall(data)
        time.sleep(CLIENT_TIMEOUT)
        still_open = [name for name, connection in connections.items() if is_open(connection)]
    assert still_open == []


def large_responses(server: Server) -> dict[str, bytes]:
    """Return requests with responses of several megabytes, more than the buffers of a connection."""
    words = " ".join(f"w{number}" for number in range(3_000))
    texts = {"texts": [words] * settings.MAX_EXPLAINED, "explain": True}
    static = "/static/dash/component/plotly/package_data/plotly.min.js"
    return {
        "static file": server.head(static, method="GET"),
        "explanations": server.request("/api/v1/predict_proba", json.dumps(texts).encode()),
    }


@contextmanager
def unread(server: Server, data: bytes, count: int) -> Iterator[list[socket.socket]]:
    """Send a request on several connections with small buffers and read nothing."""
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(closing(socket.socket()))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.settimeout(TIMEOUT)
            connection.connect(server.address)
            connection.sendall(data)
            connections.append(connection)
        yield connections


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["static file", "explanations"])
def test_clients_that_do_not_read_do_not_block_others(free_server: Server, kind: str) -> None:
    """More clients than the server has threads request a large response and do not read it."""
    with unread(free_server, large_responses(free_server)[kind], 8):
        time.sleep(10)  # all responses have been computed
        is_answered = is_answered_in_time(free_server, HEALTH)
    assert is_answered


@pytest.mark.slow
def test_clients_that_do_not_read_time_out(free_server: Server) -> None:
    requests = large_responses(free_server)
    with ExitStack() as stack:
        connections = {
            kind: stack.enter_context(unread(free_server, data, 1))[0] for kind, data in requests.items()
        }
        time.sleep(CLIENT_TIMEOUT)
        complete = {kind: read_responses(connection, 1) for kind, connection in connections.items()}
    assert {kind: len(received[0][1]) for kind, received in complete.items() if received} == {}


@pytest.mark.slow
def test_idle_new_connections_do_not_block_others(free_server: Server) -> None:
    """Without a proxy, as with `make run`, any client can hold connections on which it sends nothing."""
    with many_files(), ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(closing(free_server.connect()))
        time.sleep(2)
        is_answered = is_answered_in_time(free_server, HEALTH)
    assert is_answered


@pytest.mark.slow
def test_idle_kept_connections_do_not_block_others(free_server: Server) -> None:
    """The connections are idle after one request each."""
    with many_files(), ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            connection = stack.enter_context(closing(free_server.connect()))
            connection.sendall(HEALTH)
            response = connection.recv(65_536)
            assert response.startswith(b"HTTP/1.1 200 ")
            if b"connection: close" in response.lower():
                connection.close()
        is_answered = is_answered_in_time(free_server, HEALTH)
    assert is_answered


@pytest.mark.slow
def test_clients_that_do_not_close_do_not_block_others(free_server: Server) -> None:
    """Clients request that their connections be closed, and then leave them open."""
    with ExitStack() as stack:
        for _ in range(16):
            connection = stack.enter_context(closing(free_server.connect()))
            connection.sendall(HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        time.sleep(1)
        is_answered = is_answered_in_time(free_server, HEALTH)
    assert is_answered


@pytest.fixture
def limited_server(tmp_path: Path) -> Iterator[Server]:
    """A server whose soft and hard limits allow fewer file descriptors than clients open connections."""
    with site(tmp_path, **FEW_THREADS, file_descriptors=1_000) as (url, _):
        yield Server(url, "")


@pytest.mark.slow
def test_server_survives_lack_of_file_descriptors(limited_server: Server) -> None:
    """When `accept` fails with EMFILE, earlier connections are kept and new ones get responses later."""
    with many_files(), ExitStack() as stack:
        earlier = stack.enter_context(closing(limited_server.connect()))
        earlier.sendall(HEALTH)
        assert [status for status, _ in read_responses(earlier, 1)] == [200]
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(closing(limited_server.connect()))
        time.sleep(2)
        with suppress(OSError):
            earlier.sendall(HEALTH)
        received = [status for status, _ in read_responses(earlier, 1)]
        end = time.monotonic() + CLIENT_TIMEOUT
        while not (is_answered := is_answered_in_time(limited_server, HEALTH)) and time.monotonic() < end:
            pass
    assert received == [200]
    assert is_answered
