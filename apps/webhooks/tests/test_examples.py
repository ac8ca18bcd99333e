"""The documented receivers verify real webhooks."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from pytest_django import Settings

from apps.accounts.models import APIKey
from apps.core.permissions import SystemActor
from apps.webhooks import transport
from apps.webhooks.actions import end_signing_key, rotate_signing_key, send_test
from apps.webhooks.examples import FOLDER, examples
from apps.webhooks.models import SigningKey
from apps.webhooks.signing import sign

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
ACTOR = SystemActor("ada")


def command(name: str, port: int) -> list[str]:
    """Return how to run an example; skip the test if its interpreter is missing."""
    path = str(FOLDER / name)
    if name.endswith(".py"):
        return [sys.executable, path, str(port)]
    program, package = {"receiver.mjs": ("node", "nodejs"), "receiver.php": ("php", "php-cli")}[name]
    if shutil.which(program) is None:
        pytest.skip(f"THE EXAMPLE {name} DID NOT RUN: there is no {program} (`apt-get install {package}`)")
    return [program, path, str(port)] if program == "node" else [program, "-S", f"127.0.0.1:{port}", path]


@pytest.fixture(params=["receiver.py", "receiver.mjs", "receiver.php"])
def example(
    request: pytest.FixtureRequest, api_key: tuple[APIKey, str], settings: Settings, tmp_path: Path
) -> Iterator[tuple[str, SigningKey, Path]]:
    """A running example that knows the platform's secret: its URL, the key, and what it prints."""
    settings.WEBHOOK_ALLOW_PRIVATE = True
    key, secret = rotate_signing_key(api_key=api_key[0], actor=ACTOR)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            command(request.param, port),
            env=os.environ | {"WEBHOOK_SECRET": secret},
            stdout=output,
            stderr=output,
        ) as process,
    ):
        url = f"http://127.0.0.1:{port}/webhooks"
        try:
            for _ in range(300):
                try:
                    requests.get(url, timeout=5)
                    break
                except requests.ConnectionError:
                    time.sleep(0.1)
            yield url, key, log
        finally:
            process.terminate()


def test_example_accepts_signed_webhooks(
    example: tuple[str, SigningKey, Path], api_key: tuple[APIKey, str]
) -> None:
    url, key, log = example
    platform = api_key[0]

    def outcome() -> tuple[int | None, str]:
        attempt = send_test(api_key=platform, url=url, actor=ACTOR)
        return attempt.status, attempt.excerpt

    assert outcome() == (200, "received")
    rotate_signing_key(api_key=platform, actor=ACTOR)
    assert outcome() == (200, "received"), "during the overlap both secrets sign"
    end_signing_key(api_key=platform, key_id=key.key_id, actor=ACTOR)
    assert outcome() == (401, "the signature is not right")
    assert log.read_text().count("received test") == 2


def test_example_rejects_forged_and_replayed_webhooks(example: tuple[str, SigningKey, Path]) -> None:
    url, key, log = example
    now = int(time.time())
    body = b'{"event":"test"}'

    def status(header: str | None, sent: bytes = body) -> int:
        headers = {"Webhook-Id": "1"} | ({} if header is None else {"Webhook-Signature": header})
        return transport.exchange(url=url, body=sent, headers=headers).status

    right = sign(body, now, [key])
    assert status(right) == 200
    assert status(right, b'{"event":"tesT"}') == 401
    for replayed in (now - 310, now + 310):
        assert status(sign(body, replayed, [key])) == 401
    signature = right.partition("=")[2].partition("=")[2]
    for forged in (
        None,
        "",
        "t",
        f"t={now}",
        f"t={now}, {key.key_id}=",
        f"t={now}, {key.key_id}",
        f"t={now}, {key.key_id}={'0' * 64}",
        f"t={now}, {key.key_id}={signature[:-2]}",
        f"t={now}x, {key.key_id}={signature}",
        f"t=, {key.key_id}={signature}",
        f"{key.key_id}={signature}",
        "=,=,;,t=1,t=2",
        f"t={now}, {key.key_id}=ÿ" + "é" * 5,
    ):
        assert status(forged) == 401, forged
    assert log.read_text().count("received test") == 1


def test_documentation_shows_every_example() -> None:
    shown = dict(examples())
    files = {path.name for path in FOLDER.glob("receiver.*")}
    assert {"Python", "Node.js", "PHP"} == shown.keys()
    assert len(files) == len(shown)
    assert "Webhook-Signature" in (FOLDER.parent / "README.md").read_text()
