"""Eight at once. On SQLite the write lock keeps them apart, on PostgreSQL the row locks do."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from django.db import connection
from django.utils import timezone

from apps.accounts.models import APIKey, User
from apps.moderation import actions
from apps.moderation.exceptions import StaleError
from apps.moderation.models import Decision, Policy, QueueItem, Submission
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_queue_item

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]
ITEMS = 64
MODERATORS = 8


@pytest.fixture
def moderators(person: Callable[..., User]) -> list[User]:
    return [person(f"m{number}") for number in range(MODERATORS)]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MODERATORS + 1) as pool:
        yield pool


def _work(user: User, before_decision: Callable[[QueueItem], None] = lambda item: None) -> int:
    """Claim and decide items until the queue is empty; return how many decisions came too late."""
    try:
        late = 0
        while True:
            item = actions.claim_next(user=user)
            if item is None:
                if not QueueItem.objects.open().exists():
                    return late
                continue
            before_decision(item)
            try:
                actions.decide(
                    item_id=item.pk, version=item.version, user=user, action=Decision.Action.APPROVE
                )
            except StaleError:
                late += 1
    finally:
        connection.close()


def _each_was_decided_once() -> None:
    counts = Counter(Decision.objects.human().values_list("item", flat=True))
    assert len(counts) == ITEMS
    assert set(counts.values()) == {1}
    assert set(QueueItem.objects.values_list("status", flat=True)) == {"approved"}


def test_every_item_is_decided_exactly_once(
    model: ModelVersion, policy: Policy, moderators: list[User], threads: ThreadPoolExecutor
) -> None:
    for number in range(ITEMS):
        create_queue_item(f"insult=0.7 number {number}")
    assert sum(threads.map(_work, moderators)) == 0
    _each_was_decided_once()


def test_items_are_decided_once_while_leases_expire(
    model: ModelVersion, policy: Policy, moderators: list[User], threads: ThreadPoolExecutor
) -> None:
    for number in range(ITEMS):
        create_queue_item(f"insult=0.7 number {number}")
    expired = []

    def expire_half(item: QueueItem) -> None:
        if random.random() < 0.5:
            ended = timezone.now() - timedelta(seconds=1)
            QueueItem.objects.filter(pk=item.pk, lease_by__isnull=False).update(lease_until=ended)
            expired.append(actions.expire_leases())

    list(threads.map(partial(_work, before_decision=expire_half), moderators))
    assert sum(expired) > 0
    _each_was_decided_once()


def test_all_want_the_same_item(
    model: ModelVersion, policy: Policy, moderators: list[User], threads: ThreadPoolExecutor
) -> None:
    item = create_queue_item("insult=0.7 you")

    def grab(user: User) -> str:
        try:
            held = actions.claim(item_id=item.pk, user=user)
            actions.decide(item_id=held.pk, version=held.version, user=user, action=Decision.Action.APPROVE)
        except StaleError as error:
            return str(error)
        finally:
            connection.close()
        return "won"

    answers = list(threads.map(grab, moderators))
    assert answers.count("won") == 1
    winner = Decision.objects.human().get().actor
    assert all(winner in answer for answer in answers if answer != "won")


def test_one_external_id_sent_eight_times_at_once(
    model: ModelVersion, policy: Policy, client_key: APIKey, threads: ThreadPoolExecutor
) -> None:
    def send(_: int) -> actions.ModerationResult:
        try:
            return actions.moderate(
                text="insult=0.7 you", client=client_key, author_ref="troll", external_id="7"
            )
        finally:
            connection.close()

    answers = list(threads.map(send, range(MODERATORS)))
    assert len({answer.submission.pk for answer in answers}) == 1
    assert sum(not answer.is_repeat for answer in answers) == 1
    assert (Submission.objects.count(), Prediction.objects.count(), QueueItem.objects.count()) == (1, 1, 1)
