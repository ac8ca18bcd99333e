"""Unmodified third-party clients of the Perspective API against the live server, over HTTP and HTTPS."""

import json
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from django.test import testcases
from django.test.testcases import LiveServerThread
from googleapiclient import discovery
from googleapiclient.errors import HttpError
from PyPerspective import Perspective
from PyPerspective.errors import InvalidAuthKey
from pytest_django.live_server_helper import LiveServer

from apps.accounts.actions import create_api_key
from apps.core.permissions import SYSTEM
from apps.predictions.models import Feedback, Prediction
from apps.registry.models import ModelVersion

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.filterwarnings("ignore::ResourceWarning")]

HOST = "commentanalyzer.googleapis.com"
RUDE = "You are a stupid idiot."
KIND = "Thank you, that was kind of you."
# Replaces DNS: connections to Perspective's host go to the test server. Certificates are still verified.
NODE_DNS = """
const tls = require('tls');
const connect = tls.connect;
tls.connect = (options, ...rest) =>
  connect(options.host === 'commentanalyzer.googleapis.com'
    ? {...options, host: '127.0.0.1', port: Number(process.env.TEST_PORT)} : options, ...rest);
"""


@pytest.fixture
def key(champion: ModelVersion) -> str:
    return create_api_key(actor=SYSTEM, name="client")[1]


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[trustme.CA, Path]:
    """A certificate authority for the test, and its certificate as a file."""
    authority, path = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return authority, path


class TLSServerThread(LiveServerThread):
    """Django's live server behind a certificate for Perspective's host."""

    context: ssl.SSLContext

    def _create_server(self, *args: Any, **kwargs: Any) -> Any:
        server = super()._create_server(*args, **kwargs)
        server.socket = self.context.wrap_socket(server.socket, server_side=True)
        server.base_environ["HTTPS"] = "on"
        return server


@pytest.fixture
def tls_port(
    key: str, certificates: tuple[trustme.CA, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[int]:
    """The port of a live server whose TLS certificate is valid for Perspective's host name."""
    TLSServerThread.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates[0].issue_cert(HOST).configure_cert(TLSServerThread.context)
    monkeypatch.setattr(testcases, "LiveServerThread", TLSServerThread)
    server = LiveServer("127.0.0.1")
    yield server.thread.port
    server.stop()


@pytest.fixture
def perspective_host(
    tls_port: int, certificates: tuple[trustme.CA, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolve the host name of Perspective to the test server, as a site's DNS would."""
    resolve = socket.getaddrinfo

    def resolve_here(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        here = host in (HOST, HOST.encode())
        return resolve("127.0.0.1" if here else host, tls_port if here else port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_here)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates[1]))


def test_google_api_python_client_by_its_discovery_url(
    live_server: LiveServer, key: str, request: pytest.FixtureRequest
) -> None:
    client = discovery.build(
        "commentanalyzer",
        "v1alpha1",
        developerKey=key,
        discoveryServiceUrl=f"{live_server.url}/$discovery/rest?version=v1alpha1",
        static_discovery=False,
    )
    request.addfinalizer(client.close)
    request = {"comment": {"text": RUDE}, "requestedAttributes": {"TOXICITY": {}, "INSULT": {}}}
    answer = client.comments().analyze(body=request).execute()
    assert answer["attributeScores"]["TOXICITY"]["summaryScore"]["value"] > 0.5
    assert Prediction.objects.get().api_key.name == "client"
    suggested = {
        "comment": {"text": RUDE},
        "attributeScores": {"TOXICITY": {"summaryScore": {"value": 1}}},
        "clientToken": "t",
    }
    assert client.comments().suggestscore(body=suggested).execute() == {
        "clientToken": "t",
        "detectedLanguages": ["en"],
    }
    assert Feedback.objects.get().true_labels == {"toxic": True}
    answer = client.comments().analyze(body=request | {"languages": ["fi"]}).execute()
    assert answer["languages"] == ["fi"]  # scored, because the model is certain
    request["comment"] = {"text": "Kiitos paljon avustasi tänään, hyvät ystäväni"}
    with pytest.raises(
        HttpError, match="Attribute TOXICITY does not support request languages: fi"
    ) as caught:
        client.comments().analyze(body=request | {"languages": ["fi"]}).execute()
    assert "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE" in str(caught.value)


def test_google_api_python_client_rejects_invalid_key(live_server: LiveServer, key: str) -> None:
    with pytest.raises(HttpError, match="API key not valid"):
        discovery.build(
            "commentanalyzer",
            "v1alpha1",
            developerKey="wrong",
            discoveryServiceUrl=f"{live_server.url}/$discovery/rest?version=v1alpha1",
            static_discovery=False,
        )


def test_google_api_python_client_in_batches(
    live_server: LiveServer, key: str, request: pytest.FixtureRequest
) -> None:
    document = requests.get(f"{live_server.url}/$discovery/rest?version=v1alpha1", timeout=10).json()
    client = discovery.build_from_document(document, developerKey=key)
    request.addfinalizer(client.close)
    answers: dict[str, Any] = {}

    def keep(request_id: str, answer: Any, error: HttpError | None) -> None:
        answers[request_id] = error or answer

    batch = client.new_batch_http_request(callback=keep)
    texts = {"rude": f"😀 {RUDE}", "kind": KIND, "empty": ""}
    for request_id, text in texts.items():
        request = {"comment": {"text": text}, "requestedAttributes": {"TOXICITY": {}}}
        batch.add(client.comments().analyze(body=request), request_id=request_id)
    batch.execute()
    assert list(answers) == list(texts)
    scores = {
        name: answers[name]["attributeScores"]["TOXICITY"]["summaryScore"]["value"]
        for name in ("rude", "kind")
    }
    assert scores["kind"] < 0.5 < scores["rude"]
    assert isinstance(answers["empty"], HttpError)
    assert answers["empty"].resp.status == 400
    assert Prediction.objects.get(text__startswith="😀").text == texts["rude"]


@pytest.mark.parametrize("length", [1, 24, 25, 26, 40, 64, 200])
def test_google_api_python_client_in_batches_with_long_ids(
    live_server: LiveServer, key: str, request: pytest.FixtureRequest, length: int
) -> None:
    """HELM names each request by a hash of its text: the client folds such a Content-ID over two lines."""
    document = requests.get(f"{live_server.url}/$discovery/rest?version=v1alpha1", timeout=10).json()
    client = discovery.build_from_document(document, developerKey=key)
    request.addfinalizer(client.close)
    answers: dict[str, Any] = {}
    batch = client.new_batch_http_request(
        callback=lambda request_id, answer, error: answers.setdefault(request_id, error or answer)
    )
    ids = [f"{number}{'a' * (length - 1)}" for number in range(3)] + ["ü +\n<id>" * length]
    for request_id in ids:
        request = {"comment": {"text": f"{RUDE} {request_id[0]}"}, "requestedAttributes": {"TOXICITY": {}}}
        batch.add(client.comments().analyze(body=request), request_id=request_id)
    batch.execute()
    assert list(answers) == ids
    assert all(answer["attributeScores"]["TOXICITY"]["summaryScore"] for answer in answers.values())
    assert Prediction.objects.count() == len(ids)


@pytest.mark.usefixtures("perspective_host")
def test_client_with_fixed_host_connects_by_dns(key: str) -> None:
    client = Perspective.Perspective(key)
    scored = client.get_score(RUDE, tests=["TOXICITY", "INSULT"])
    assert scored["TOXICITY"].score > 0.5
    assert scored.requests_langs == scored.detected_langs == ["en"]
    with pytest.raises(InvalidAuthKey):
        Perspective.Perspective("wrong")


@pytest.mark.usefixtures("perspective_host")
def test_analyze_accepts_text_plain(key: str) -> None:
    answer = requests.post(
        f"https://{HOST}/v1alpha1/comments:analyze?key={key}",
        data=json.dumps({"comment": {"text": RUDE}, "requestedAttributes": {"TOXICITY": {}}}),
        headers={"Content-Type": "text/plain", "Origin": "https://forum.example.org"},
        timeout=10,
    )
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.json()["languages"] == ["en"]


def run_node(script: str, folder: Path, port: int, authority: Path, **env: str) -> Any:
    dns = folder / "dns.cjs"
    dns.write_text(NODE_DNS)
    (folder / "script.cjs").write_text(script)
    result = subprocess.run(
        ["node", "--require", str(dns), str(folder / "script.cjs")],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"TEST_PORT": str(port), "NODE_EXTRA_CA_CERTS": str(authority), **env},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_perspective_api_client_of_node(
    node_modules: Path, tls_port: int, certificates: tuple[trustme.CA, Path], key: str
) -> None:
    script = """
const Perspective = require('perspective-api-client');
const client = new Perspective({apiKey: process.env.KEY});
(async () => {
  const answer = await client.analyze(process.env.TEXT, {attributes: ['toxicity', 'insult']});
  const error = await client.analyze(process.env.TEXT, {attributes: ['flirtation']})
    .catch(error => error.message);
  console.log(JSON.stringify({answer, error}));
})();
"""
    output = run_node(script, node_modules, tls_port, certificates[1], KEY=key, TEXT=RUDE)
    assert output["answer"]["attributeScores"]["TOXICITY"]["summaryScore"]["value"] > 0.5
    assert set(output["answer"]["attributeScores"]) == {"TOXICITY", "INSULT"}
    assert output["error"] == "Unknown requested attribute: FLIRTATION"
    assert Prediction.objects.get().text is None  # the client sends doNotStore by default


def test_googleapis_of_node(
    node_modules: Path, tls_port: int, certificates: tuple[trustme.CA, Path], key: str
) -> None:
    script = """
const {google} = require('googleapis');
(async () => {
  const url = 'https://commentanalyzer.googleapis.com/$discovery/rest?version=v1alpha1';
  const client = await google.discoverAPI(url);
  const resource = {comment: {text: process.env.TEXT}, requestedAttributes: {TOXICITY: {}}};
  const answer = await client.comments.analyze({key: process.env.KEY, resource});
  console.log(JSON.stringify(answer.data));
})();
"""
    output = run_node(script, node_modules, tls_port, certificates[1], KEY=key, TEXT=RUDE)
    assert output["attributeScores"]["TOXICITY"]["summaryScore"]["value"] > 0.5
    assert Prediction.objects.get().text == RUDE
