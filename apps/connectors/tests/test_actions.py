"""What is sent to the platforms: flags, decisions, and retries."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.utils import timezone
from django.utils.crypto import get_random_string
from pytest_django import Settings

from apps.accounts.models import User
from apps.connectors import actions, tasks
from apps.connectors.models import Connection, PlatformAction
from apps.connectors.tests.payloads import (
    CORAL_COMMENT,
    KIND,
    MASTODON_REPORT,
    REQUESTS,
    RUDE,
    WORSE,
    coral_page,
    graphql,
    with_text,
)
from apps.core.exceptions import PermissionDeniedError
from apps.moderation import actions as moderation
from apps.moderation.models import Decision, QueueItem, Submission
from toxicmod.testing.factories import decide_item
from toxicmod.testing.receivers import Receiver

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("model", "policy")]
Connect = Callable[..., Connection]
Kind, Status = PlatformAction.Kind, PlatformAction.Status


@pytest.fixture(autouse=True)
def _no_undo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send decisions at once."""
    monkeypatch.setattr(moderation, "UNDO", timedelta(0))


@pytest.fixture
def moderator(person: Callable[..., User]) -> User:
    return person("mona")


@pytest.fixture
def connected(connect: Connect, receiver: Receiver) -> Callable[[str], Connection]:
    """Create a connection that sends to the receiver."""
    base = receiver.url.partition("/hook")[0]
    return lambda platform: connect(platform, token="token", base_url=base)


def receive(connection: Connection, data: Any = None) -> None:
    recorded, headers = REQUESTS[connection.platform]
    actions.receive(connection=connection, headers=headers, data=data or recorded)


def send(connection: Connection) -> int:
    actions.create_due_actions()
    return actions.send_actions(connection_id=str(connection.pk))


def sent(receiver: Receiver) -> list[tuple[str, str, Any]]:
    """Return method, path and JSON body of every request that the platform got."""
    return [
        (method, path, json.loads(body) if body else None)
        for method, (_, body, path) in zip(receiver.methods, receiver.got, strict=True)
    ]


@pytest.mark.parametrize(("action", "mutation"), [("reject", "rejectComment"), ("approve", "approveComment")])
def test_decision_goes_to_coral(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User, action: str, mutation: str
) -> None:
    connection = connected("coral")
    receive(connection)
    decide_item(QueueItem.objects.get(), moderator, action)
    different = [
        CORAL_COMMENT | {"id": "other", "body": "Hi"},
        CORAL_COMMENT | {"id": "reply", "parent": None},
        CORAL_COMMENT | {"id": "elsewhere", "story": {"id": "story-2"}},
        CORAL_COMMENT | {"id": "deleted", "body": None},
    ]
    receiver.bodies = [
        coral_page(*different, after="cursor"),
        coral_page(CORAL_COMMENT),
        graphql({mutation: {"comment": {"id": "comment-1", "status": "REJECTED"}}}),
    ]
    assert send(connection) == 1
    first, second, decided = (body for _, _, body in sent(receiver))
    assert first["variables"]["author"] == "author-1"
    assert second["variables"]["after"] == "cursor"
    assert mutation in decided["query"]
    request = decided["variables"]["input"]
    assert (request["commentID"], request["commentRevisionID"]) == ("comment-1", "revision-1")
    assert ("reason" in request) == (action == "reject")
    assert receiver.got[0][0]["Authorization"] == "Bearer token"
    assert {path for _, path, _ in sent(receiver)} == {"/api/graphql"}
    assert PlatformAction.objects.get().status == Status.DELIVERED
    assert send(connection) == 0


def test_decision_about_comment_that_coral_lacks_fails(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User
) -> None:
    connection = connected("coral")
    receive(connection)
    decide_item(QueueItem.objects.get(), moderator)
    receiver.body = coral_page()
    assert send(connection) == 1
    action = PlatformAction.objects.get()
    assert action.status == Status.FAILED
    assert "edited or deleted" in action.error


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"errors": [{"message": "not now"}], "data": null}'])
def test_errors_of_coral_are_retried(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User, body: bytes
) -> None:
    connection = connected("coral")
    receive(connection)
    decide_item(QueueItem.objects.get(), moderator)
    receiver.body = body
    assert send(connection) == 1
    action = PlatformAction.objects.get()
    assert (action.status, action.attempts) == (Status.PENDING, 1)
    assert action.error
    assert action.send_after > timezone.now()
    assert send(connection) == 0  # the connection is paused
    PlatformAction.objects.update(send_after=timezone.now(), retry_until=timezone.now())
    Connection.objects.update(paused_until=None)
    assert send(connection) == 1
    assert PlatformAction.objects.get().status == Status.FAILED


def test_comment_is_flagged_on_discourse_and_decided(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User
) -> None:
    connection = connected("discourse")
    receive(connection, with_text("discourse", KIND))
    receive(connection)
    receive(connection)
    assert send(connection) == 1
    flag = {"id": 42, "post_action_type_id": 4, "flag_topic": False}
    assert sent(receiver) == [("POST", "/post_actions.json", flag)]
    headers = receiver.got[0][0]
    assert (headers["Api-Key"], headers["Api-Username"]) == ("token", "system")
    rejection = decide_item(QueueItem.objects.get(), moderator).decision
    assert send(connection) == 1
    assert sent(receiver)[-1] == ("DELETE", "/posts/42.json", None)
    moderation.undo(decision_id=rejection.pk, user=moderator)
    decide_item(QueueItem.objects.get(), moderator, "approve")
    assert send(connection) == 1
    assert sent(receiver)[-1] == ("PUT", "/posts/42/recover.json", {})
    assert set(PlatformAction.objects.values_list("status", flat=True)) == {"delivered"}


def test_undo_restores_and_flags_post_on_discourse(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User
) -> None:
    connection = connected("discourse")
    receive(connection)
    rejection = decide_item(QueueItem.objects.get(), moderator).decision
    assert send(connection) == 2
    moderation.undo(decision_id=rejection.pk, user=moderator)
    assert send(connection) == 2
    flag = {"id": 42, "post_action_type_id": 4, "flag_topic": False}
    recovery = ("PUT", "/posts/42/recover.json", {})
    assert sent(receiver)[-2:] == [recovery, ("POST", "/post_actions.json", flag)]
    approval = decide_item(QueueItem.objects.get(), moderator, "approve").decision
    assert send(connection) == 1
    removal = ("DELETE", "/post_actions/42.json?post_action_type_id=4", None)
    assert sent(receiver)[-1] == removal
    moderation.undo(decision_id=approval.pk, user=moderator)
    assert send(connection) == 1
    assert sent(receiver)[-2:] == [removal, ("POST", "/post_actions.json", flag)]
    assert send(connection) == 0


def test_undo_restores_post_once_if_flagging_fails(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User
) -> None:
    connection = connected("discourse")
    receive(connection)
    rejection = decide_item(QueueItem.objects.get(), moderator).decision
    send(connection)
    moderation.undo(decision_id=rejection.pk, user=moderator)
    actions.create_due_actions()
    PlatformAction.objects.filter(kind=Kind.FLAG).update(send_after=timezone.now() + timedelta(hours=1))
    assert actions.send_actions(connection_id=str(connection.pk)) == 1
    receiver.status = 429
    PlatformAction.objects.update(send_after=timezone.now())
    assert send(connection) == 1
    receiver.status = 200
    PlatformAction.objects.update(send_after=timezone.now())
    Connection.objects.update(paused_until=None)
    assert send(connection) == 1
    paths = [path for _, path, _ in sent(receiver)]
    assert paths[-3:] == ["/posts/42/recover.json", "/post_actions.json", "/post_actions.json"]
    assert set(PlatformAction.objects.values_list("status", flat=True)) == {"delivered"}


def test_undo_is_retried_if_the_post_is_not_restored(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User
) -> None:
    connection = connected("discourse")
    receive(connection)
    rejection = decide_item(QueueItem.objects.get(), moderator).decision
    send(connection)
    moderation.undo(decision_id=rejection.pk, user=moderator)
    receiver.status = 500
    assert send(connection) == 1
    assert sent(receiver)[-1] == ("PUT", "/posts/42/recover.json", {})
    unsent = PlatformAction.objects.filter(status=Status.PENDING).order_by("pk")
    assert list(unsent.values_list("kind", "attempts")) == [(Kind.APPROVE, 1), (Kind.FLAG, 0)]


def test_approval_removes_flag_on_discourse(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User
) -> None:
    connection = connected("discourse")
    receive(connection)
    decide_item(QueueItem.objects.get(), moderator, "approve")
    assert send(connection) == 2
    assert sent(receiver)[-1] == ("DELETE", "/post_actions/42.json?post_action_type_id=4", None)


def test_flag_of_edited_comment_is_kept_or_removed_on_discourse(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User
) -> None:
    connection = connected("discourse")
    for text in (RUDE, WORSE, KIND, RUDE):
        receive(connection, with_text("discourse", text))
    assert list(PlatformAction.objects.order_by("pk").values_list("kind", flat=True)) == [
        Kind.FLAG,
        Kind.APPROVE,
        Kind.FLAG,
    ]
    assert send(connection) == 3
    assert receiver.methods == ["POST", "DELETE", "POST"]
    decide_item(QueueItem.objects.open().get(), moderator, "approve")
    assert send(connection) == 1
    assert sent(receiver)[-1] == ("DELETE", "/post_actions/42.json?post_action_type_id=4", None)


def test_actions_of_revisions_are_sent_in_order(
    connected: Callable[[str], Connection], receiver: Receiver
) -> None:
    connection = connected("discourse")
    for text in (RUDE, KIND):
        receive(connection, with_text("discourse", text))
    PlatformAction.objects.filter(kind=Kind.FLAG).update(send_after=timezone.now() + timedelta(hours=1))
    assert send(connection) == 0
    PlatformAction.objects.update(send_after=timezone.now())
    assert send(connection) == 2
    assert receiver.methods == ["POST", "DELETE"]


@pytest.mark.django_db(transaction=True)
def test_concurrent_requests_for_a_post_are_revisions_in_a_row(connect: Connect) -> None:
    connection, count = connect("discourse"), 8

    def send_twice(number: int) -> None:
        try:
            for _ in range(2):
                receive(connection, with_text("discourse", f"insult=0.7 you fool {number // 2}"))
        finally:
            database.close()

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(send_twice, range(count)))
    submissions = list(Submission.objects.order_by("revision").select_related("previous"))
    assert [submission.revision for submission in submissions] == list(range(1, len(submissions) + 1))
    assert [submission.previous for submission in submissions] == [None, *submissions[:-1]]
    assert QueueItem.objects.open().get().submission == submissions[-1]


def test_rejection_of_the_policy_flags_on_discourse(
    connected: Callable[[str], Connection], receiver: Receiver
) -> None:
    connection = connected("discourse")
    receive(connection, with_text("discourse", WORSE))
    assert send(connection) == 1
    assert PlatformAction.objects.get().kind == Kind.FLAG


@pytest.mark.parametrize(
    ("action", "path"),
    [("reject", "/api/v1/admin/accounts/77/action"), ("approve", "/api/v1/admin/reports/8437/resolve")],
)
def test_report_of_mastodon_is_reviewed_and_closed(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User, action: str, path: str
) -> None:
    """A reported status is reviewed even if the policy approved it before."""
    connection = connected("mastodon")
    kind = with_text("mastodon", KIND)
    receive(connection, kind)
    assert not QueueItem.objects.exists()
    report = MASTODON_REPORT["object"] | {"statuses": [kind["object"]]}
    receive(connection, MASTODON_REPORT | {"object": report})
    item = QueueItem.objects.get()
    rule = item.policy.rules.first()
    decide_item(item, moderator, action, **({"rule": rule} if action == "reject" else {}))
    assert send(connection) == 1
    ((method, sent_path, body),) = sent(receiver)
    assert (method, sent_path) == ("POST", path)
    if action == "reject":
        assert (body["type"], body["report_id"], body["text"]) == ("none", "8437", rule.reason)
    assert receiver.got[0][0]["Authorization"] == "Bearer token"


def test_approval_without_report_is_not_sent_to_mastodon(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User
) -> None:
    connection = connected("mastodon")
    receive(connection)
    decide_item(QueueItem.objects.get(), moderator, "approve")
    assert send(connection) == 0
    assert not receiver.got


def test_nothing_is_sent_without_token(connect: Connect, moderator: User) -> None:
    connection = connect("discourse")
    receive(connection)
    decide_item(QueueItem.objects.get(), moderator)
    assert send(connection) == 0
    assert not PlatformAction.objects.exists()


def test_decision_is_not_sent_while_it_can_be_undone(
    connected: Callable[[str], Connection],
    receiver: Receiver,
    moderator: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moderation, "UNDO", timedelta(seconds=10))
    connection = connected("coral")
    receive(connection)
    decide_item(QueueItem.objects.get(), moderator)
    assert send(connection) == 0
    assert not PlatformAction.objects.exists()


def test_rejected_request_fails_and_can_be_sent_again(
    connected: Callable[[str], Connection], receiver: Receiver, person: Callable[..., User]
) -> None:
    connection = connected("discourse")
    receive(connection)
    receiver.status = 403
    assert send(connection) == 1
    assert PlatformAction.objects.get().status == Status.FAILED
    with pytest.raises(PermissionDeniedError):
        actions.resend(actor=person("vera", "viewer"), actions=PlatformAction.objects.all())
    assert actions.resend(actor=person("adam", "administrator"), actions=PlatformAction.objects.all()) == 1
    receiver.status = 200
    assert send(connection) == 1
    assert PlatformAction.objects.get().status == Status.DELIVERED


def test_outage_pauses_connection_and_keeps_order(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User
) -> None:
    connection = connected("discourse")
    receive(connection)
    decide_item(QueueItem.objects.get(), moderator)
    receiver.status = 503
    receiver.headers = {"Retry-After": "60"}
    assert send(connection) == 1
    connection.refresh_from_db()
    assert connection.failures == 1
    assert connection.paused_until is not None
    assert connection.paused_until > timezone.now() + timedelta(seconds=50)
    assert actions.due_connections() == []
    receiver.status = 200
    Connection.objects.update(paused_until=None)
    assert send(connection) == 0  # the flag is not due, and the rejection waits for it
    PlatformAction.objects.update(send_after=timezone.now())
    assert send(connection) == 2
    assert receiver.methods == ["POST", "POST", "DELETE"]


def test_action_of_another_version_fails(connected: Callable[[str], Connection], receiver: Receiver) -> None:
    receive(connected("discourse"))
    unknown_platform, unknown_kind = (PlatformAction.objects.get() for _ in range(2))
    unknown_platform.comment.connection.platform = unknown_kind.kind = "other"
    for action in (unknown_platform, unknown_kind):
        assert actions._attempt(action).is_permanent
    assert not receiver.got


def test_private_address_is_not_sent_to(connect: Connect, moderator: User, settings: Settings) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    connection = connect("discourse", token="token", base_url="http://127.0.0.1:9")
    receive(connection)
    assert send(connection) == 1
    action = PlatformAction.objects.get()
    assert action.status == Status.FAILED
    assert "public internet" in action.error


def test_tasks_send_what_is_due(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User
) -> None:
    connection = connected("discourse")
    receive(connection)
    tasks.enqueue_due()
    assert actions.due_connections() == [connection.pk]
    tasks.send_actions(str(connection.pk))
    assert len(receiver.got) == 1


def test_one_worker_sends_at_a_time(connected: Callable[[str], Connection], receiver: Receiver) -> None:
    connection = connected("discourse")
    receive(connection)
    Connection.objects.update(lease_expires_at=timezone.now() + timedelta(minutes=1))
    assert send(connection) == 0
    assert not receiver.got


def test_secrets_are_stored_encrypted(connect: Connect, settings: Settings) -> None:
    connection = connect("coral", token="token of the platform")
    connection.refresh_from_db()
    assert connection.token == "token of the platform"
    assert "token" not in connection.encrypted_token
    assert "secret" not in connection.encrypted_secret
    settings.SECRET_KEY = get_random_string(64)
    assert connection.token == connection.secret == ""


def test_create_due_actions_considers_decision_once(
    connected: Callable[[str], Connection], moderator: User
) -> None:
    connection = connected("coral")
    receive(connection)
    decision = decide_item(QueueItem.objects.get(), moderator).decision
    for _ in range(2):
        actions.create_due_actions()
    assert PlatformAction.objects.get().decision == decision
    moderation.undo(decision_id=decision.pk, user=moderator)
    actions.create_due_actions()
    assert PlatformAction.objects.count() == 1
    assert Decision.objects.count() == 2


def test_decision_on_a_replaced_revision_is_not_sent(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User
) -> None:
    connection = connected("discourse")
    receive(connection, with_text("discourse", RUDE))
    decide_item(QueueItem.objects.get(), moderator)  # the author edits before it is sent
    receive(connection, with_text("discourse", KIND))
    send(connection)
    assert ("DELETE", "/posts/42.json", None) not in sent(receiver)


def test_undo_on_a_replaced_revision_does_not_change_the_new_text(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User
) -> None:
    connection = connected("discourse")
    receive(connection, with_text("discourse", RUDE))
    result = decide_item(QueueItem.objects.get(), moderator, "approve")
    send(connection)
    receive(connection, with_text("discourse", "insult=0.71 clown"))
    decide_item(QueueItem.objects.open().get(), moderator, "reject")
    send(connection)
    before = len(sent(receiver))
    moderation.undo(decision_id=result.decision.pk, user=moderator)
    send(connection)
    assert len(sent(receiver)) == before


def test_failed_action_on_a_replaced_revision_is_not_sent_again(
    connected: Callable[[str], Connection], receiver: Receiver, moderator: User, person: Callable[..., User]
) -> None:
    connection = connected("discourse")
    receive(connection, with_text("discourse", RUDE))
    decide_item(QueueItem.objects.get(), moderator)
    receiver.status = 403
    send(connection)
    receiver.status = 200
    receive(connection, with_text("discourse", "insult=0.71 clown"))
    decide_item(QueueItem.objects.open().get(), moderator, "approve")
    send(connection)
    rejections = PlatformAction.objects.filter(kind=PlatformAction.Kind.REJECT)
    assert actions.resend(actor=person("adam", "administrator"), actions=rejections) == 0
