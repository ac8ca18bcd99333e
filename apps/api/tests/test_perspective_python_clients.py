"""Unmodified Python clients of Perspective from PyPI, each in a process that resolves its host to the server.

The clients need old or large libraries, so each one is installed into a folder of pytest's cache.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from apps.accounts.actions import create_api_key
from apps.accounts.attribute_counts import store_counts
from apps.accounts.models import UnsupportedAttribute
from apps.api.tests.test_perspective_clients import (  # noqa: F401  (fixtures)
    HOST,
    KIND,
    RUDE,
    certificates,
    key,
    tls_port,
)
from apps.core.permissions import SYSTEM
from apps.predictions.models import Prediction

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

# By client: what is installed. The tests' environment has the other libraries that the client imports.
PACKAGES = {
    "begentle": ["begentle==0.1.1"],
    "helm": [
        "crfm-helm==0.5.16",
        "colorlog==6.12.0",
        "dacite==1.9.2",
        "pyhocon==0.3.63",
        "sqlitedict==2.1.0",
        "zstandard==0.25.0",
    ],
    "perspective.py": ["perspective.py==0.3.4", "pycountry==24.6.1"],
    "perspectiveapi": ["perspectiveapi==1.1.0"],
    "pyspective": ["pyspective==0.0.2"],
}
# Replaces DNS; certificates are still verified.
DNS = f"""
import os, socket
resolve = socket.getaddrinfo
def resolve_here(host, port, *args, **kwargs):
    here = host in ({HOST!r}, {HOST.encode()!r})
    if here:
        host, port = "127.0.0.1", int(os.environ["TEST_PORT"])
    return resolve(host, port, *args, **kwargs)
socket.getaddrinfo = resolve_here
class Socket(socket.socket):
    def connect(self, address):
        here = address[0] == {HOST!r}
        return super().connect(("127.0.0.1", int(os.environ["TEST_PORT"])) if here else address)
socket.socket = Socket
"""
Run = Callable[[str, str, str], Any]


@pytest.fixture
def run_client(
    pytestconfig: pytest.Config,
    tmp_path: Path,
    tls_port: int,  # noqa: F811
    certificates: tuple[trustme.CA, Path],  # noqa: F811
) -> Run:
    """Return a function that runs a script with a client and a key, and returns the JSON that it prints."""

    def run(client: str, script: str, secret: str) -> Any:
        folder = pytestconfig.cache.mkdir("perspective-python-clients") / client
        if not (folder / "complete").exists():
            install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
            result = subprocess.run(
                [*install, *PACKAGES[client]], capture_output=True, text=True, timeout=300
            )
            if result.returncode:
                pytest.skip(f"{client} NOT TESTED: pip could not install it: {result.stderr[-300:]}")
            (folder / "complete").touch()
        (tmp_path / "sitecustomize.py").write_text(DNS)
        environment = {
            name: str(certificates[1])
            for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "HTTPLIB2_CA_CERTS")
        }
        environment |= {
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{folder}",
            "TEST_PORT": str(tls_port),
            "KEY": secret,
            "RUDE": RUDE,
            "KIND": KIND,
        }
        prelude = (
            "import json, os\nKEY, RUDE, KIND = (os.environ[name] for name in ('KEY', 'RUDE', 'KIND'))\n"
        )
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", prelude + script],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | environment,
        )
        assert result.returncode == 0, result.stderr[-2_000:]
        return json.loads(result.stdout)

    return run


def test_begentle(run_client: Run, key: str) -> None:  # noqa: F811
    script = """
import begentle
client = begentle.CommentAnalyzer(KEY)
print(json.dumps([client.analyze(RUDE), client.analyze(KIND)]))
"""
    rude, kind = run_client("begentle", script, key)
    assert kind < 0.5 < rude


def test_pyspective_with_its_default_attributes(run_client: Run, key: str) -> None:  # noqa: F811
    script = """
from pyspective.pyspective import PyspectiveAPI
client = PyspectiveAPI(KEY)
print(json.dumps([client.score(RUDE), client.score(RUDE, test="insult"), client.suggest(RUDE, 1)]))
"""
    scores, insult, suggestion = run_client("pyspective", script, key)
    assert set(scores) == {
        "TOXICITY",
        "SEVERE_TOXICITY",
        "IDENTITY_ATTACK",
        "INSULT",
        "PROFANITY",
        "THREAT",
    } | (set(scores) & {"SEXUALLY_EXPLICIT"})
    assert scores["TOXICITY"] > 0.5
    assert insult == {"INSULT": scores["INSULT"]}
    assert suggestion == "Successed"
    store_counts()
    assert UnsupportedAttribute.objects.get(attribute="FLIRTATION").requests == 1


def test_perspectiveapi(run_client: Run, key: str) -> None:  # noqa: F811
    script = """
from perspective import Attribute
from perspective.blocking import Perspective
score = Perspective(KEY).score(RUDE, [Attribute.TOXICITY, Attribute.INSULT])
print(json.dumps([score.toxicity, score.insult]))
"""
    assert min(run_client("perspectiveapi", script, key)) > 0.5


@pytest.mark.parametrize("attributes", ["Production", "All"])
def test_perspective_py(run_client: Run, key: str, attributes: str) -> None:  # noqa: F811
    """With all attributes it needs a key with *Score 0 for unsupported attributes*: it reads each of them."""
    script = f"""
import perspective
client = perspective.Client(KEY)
print(json.dumps(client.analyze(RUDE, attributes=perspective.Attributes.{attributes})))
"""
    if attributes == "All":
        key = create_api_key(actor=SYSTEM, name="zeros", zero_unsupported=True)[1]
    scores = run_client("perspective.py", script, key)
    assert scores["TOXICITY"] > 0.5
    if attributes == "All":
        assert scores["SPAM"] == 0
        assert scores["OBSCENE"] > 0


def test_helm_with_its_default_request(run_client: Run, key: str) -> None:  # noqa: F811
    """HELM sends batches whose Content-IDs are the comments, with span annotations and eight attributes."""
    script = """
from helm.clients.perspective_api_client import PerspectiveAPIClient
from helm.common.cache import BlackHoleCacheConfig
from helm.common.perspective_api_request import PerspectiveAPIRequest
client = PerspectiveAPIClient(KEY, BlackHoleCacheConfig())
texts = [RUDE, KIND, "Ünïcode, you are a stupid idiot! " + "A long comment with a second line.\\n" * 10]
result = client.get_toxicity_scores(PerspectiveAPIRequest(texts))
assert result.success, result.error
print(json.dumps([result.text_to_toxicity_attributes[text].toxicity_score for text in texts]))
"""
    rude, kind, unicode = run_client("helm", script, key)
    assert kind < 0.5 < rude
    assert unicode > 0.5
    assert Prediction.objects.count() == 3
