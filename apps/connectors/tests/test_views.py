"""The endpoint as the platforms call it."""

import json
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from django.db import OperationalError
from django.test import Client
from django.urls import reverse
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from apps.connectors.models import Connection, ReceivedComment
from apps.connectors.tests.payloads import (
    CORAL,
    KIND,
    REQUESTS,
    RUDE,
    SIGNATURE_HEADERS,
    WORSE,
    signature,
    with_text,
)
from apps.connectors.tests.test_adapters import JSON
from apps.moderation.models import QueueItem, Submission

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("model", "policy")]
Connect = Callable[..., Connection]
FLAG = [{"actionType": "FLAG", "reason": "COMMENT_DETECTED_TOXIC"}]


def send(client: Client, connection: Connection, data: Any, **headers: str) -> Any:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    signed = {SIGNATURE_HEADERS[connection.platform]: signature(body)}
    return client.post(
        reverse("connectors:receive", args=[connection.pk]),
        body,
        content_type="application/json",
        headers=REQUESTS[connection.platform][1] | signed | headers,
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (KIND, None),
        (RUDE, {"status": "SYSTEM_WITHHELD", "actions": FLAG}),
        (WORSE, {"status": "REJECTED", "actions": FLAG}),
    ],
)
def test_receive_answers_coral_by_the_policy(
    client: Client, connect: Connect, text: str, answer: dict[str, Any] | None
) -> None:
    response = send(client, connect("coral", community="news"), with_text("coral", text))
    assert response.status_code == (200 if answer else 204)
    assert (response.json() if answer else response.content or None) == answer
    submission = Submission.objects.get()
    assert (submission.community, submission.author.ref) == ("news", "author-1")  # type: ignore[union-attr]
    assert submission.context["story"] == "story-1"
    assert submission.context["parent"] == "parent-1"
    assert submission.prediction.source == "connector"
    assert ReceivedComment.objects.get().submission == submission


@pytest.mark.parametrize("platform", ["discourse", "mastodon"])
def test_receive_queues_comment_once(client: Client, connect: Connect, platform: str) -> None:
    connection = connect(platform)
    for _ in range(2):
        assert send(client, connection, REQUESTS[platform][0]).status_code == 204
    assert QueueItem.objects.get().submission.external_id == Submission.objects.get().external_id != ""
    edited = with_text(platform, "insult=0.8 you other fool")
    assert send(client, connection, edited).status_code == 204
    assert Submission.objects.count() == 2


@pytest.mark.parametrize("platform", ["discourse", "mastodon"])
def test_receive_edited_comment_is_a_revision(client: Client, connect: Connect, platform: str) -> None:
    connection = connect(platform)
    texts = [RUDE, KIND, RUDE, WORSE]
    for text in texts:
        for _ in range(2):
            assert send(client, connection, with_text(platform, text)).status_code == 204
    submissions = list(Submission.objects.order_by("pk").select_related("previous", "prediction"))
    assert [submission.text for submission in submissions] == texts
    assert [submission.revision for submission in submissions] == [1, 2, 3, 4]
    assert [submission.previous for submission in submissions] == [None, *submissions[:-1]]
    assert not QueueItem.objects.open().filter(submission__in=submissions[:-1]).exists()


def test_connections_do_not_share_ids(client: Client, connect: Connect) -> None:
    connections = [connect("discourse") for _ in range(2)]
    for connection in connections:
        assert send(client, connection, REQUESTS["discourse"][0]).status_code == 204
    assert {received.connection for received in ReceivedComment.objects.all()} == set(connections)
    assert set(Submission.objects.values_list("revision", flat=True)) == {1}


def test_receive_answers_coral_within_its_default_time_limit(client: Client, connect: Connect) -> None:
    """The fastest of some requests, because other tests may run at the same time."""
    connection, seconds = connect("coral"), []
    for number in range(5):
        start = time.perf_counter()
        assert send(client, connection, with_text("coral", f"{RUDE} {number}")).status_code == 200
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.2


def test_receive_rejects_wrong_signatures(client: Client, connect: Connect) -> None:
    connection = connect("coral")
    for headers in ({}, {"X-Coral-Signature": "sha256=0"}, {"X-Coral-Signature": signature(b"another")}):
        response = client.post(
            reverse("connectors:receive", args=[connection.pk]),
            json.dumps(CORAL),
            content_type="application/json",
            headers=headers,
        )
        assert response.status_code in (401, 403)
        assert "X-Coral-Signature" in response.json()["detail"]
    assert not Submission.objects.exists()


def test_receive_limits_wrong_signatures(client: Client, connect: Connect) -> None:
    path = reverse("connectors:receive", args=[connect("coral").pk])
    statuses = [client.post(path, "{}", content_type="application/json").status_code for _ in range(62)]
    assert statuses[-1] == 429


def test_receive_rejects_inactive_and_unknown_connections(client: Client, connect: Connect) -> None:
    connection = connect("coral", is_active=False)
    assert send(client, connection, CORAL).status_code == 404
    connection.pk = "01a21138-66c6-7654-85ed-f83c5f552c16"
    assert send(client, connection, CORAL).status_code == 404
    assert client.get(reverse("connectors:receive", args=[connection.pk])).status_code == 405


def test_receive_is_unavailable_while_database_fails(client: Client, connect: Connect) -> None:
    connection = connect("coral")
    with patch("apps.moderation.actions.moderate", side_effect=OperationalError):
        assert send(client, connection, CORAL).status_code == 503


@pytest.mark.parametrize("platform", Connection.Platform.values)
def test_receive_answers_generated_bodies(client: Client, connect: Connect, platform: str) -> None:
    connection = connect(platform)
    assert send(client, connection, b"{").status_code == 400
    assert send(client, connection, b"").status_code == 400

    @hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(value=JSON, text=JSON)
    def check(value: Any, text: Any) -> None:
        assert send(client, connection, value).status_code in (200, 204, 400)
        response = send(client, connection, with_text(platform, text))
        assert response.status_code in (200, 204, 400), response.content

    check()
