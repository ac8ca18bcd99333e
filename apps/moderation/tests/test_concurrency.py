"""Eight concurrent moderators. SQLite's write lock or PostgreSQL's row locks serialize their actions."""

import random
import time
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
                time.sleep(0.01)  # as a browser would; SQLite is not fair to those who wait for its lock
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


def _assert_each_item_was_decided_once() -> None:
    counts = Counter(Decision.objects.human().values_list("item", flat=True))
    assert len(counts) == ITEMS
    assert set(counts.values()) == {1}
    assert set(QueueItem.objects.values_list("status", flat=True)) == {"approved"}


def test_decide_by_concurrent_moderators(
    model: ModelVersion, policy: Policy, moderators: list[User], threads: ThreadPoolExecutor
) -> None:
    for number in range(ITEMS):
        create_queue_item(f"insult=0.7 number {number}")
    assert sum(threads.map(_work, moderators)) == 0
    _assert_each_item_was_decided_once()


def test_decide_by_concurrent_moderators_while_leases_expire(
    model: ModelVersion, policy: Policy, moderators: list[User], threads: ThreadPoolExecutor
) -> None:
    for number in range(ITEMS):
        create_queue_item(f"insult=0.7 number {number}")
    expired = []

    def expire_some(item: QueueItem) -> None:
        if random.random() < 0.5:
            ended = timezone.now() - timedelta(seconds=1)
            QueueItem.objects.filter(pk=item.pk, lease_by__isnull=False).update(lease_until=ended)
            expired.append(actions.expire_leases())

    list(threads.map(partial(_work, before_decision=expire_some), moderators))
    assert sum(expired) > 0
    _assert_each_item_was_decided_once()


def test_claim_of_same_item_by_concurrent_moderators(
    model: ModelVersion, policy: Policy, moderators: list[User], threads: ThreadPoolExecutor
) -> None:
    item = create_queue_item("insult=0.7 you")

    def claim_and_decide(user: User) -> str:
        try:
            held = actions.claim(item_id=item.pk, user=user)
            actions.decide(item_id=held.pk, version=held.version, user=user, action=Decision.Action.APPROVE)
        except StaleError as error:
            return str(error)
        finally:
            connection.close()
        return ""

    errors = list(threads.map(claim_and_decide, moderators))
    assert errors.count("") == 1
    name = Decision.objects.human().get().actor
    assert all(name in error for error in errors if error)


def test_edit_during_decision_and_undo_leaves_no_open_item(
    model: ModelVersion,
    policy: Policy,
    platform_key: APIKey,
    moderators: list[User],
    threads: ThreadPoolExecutor,
) -> None:
    Policy.objects.update(second_review_share=1.0)
    edits = [
        partial(
            actions.moderate,
            text="fine, edited",
            api_key=platform_key,
            external_id=str(number),
            author_ref="troll",
        )
        for number in range(ITEMS // 2)
    ]
    items = [
        create_queue_item(f"insult=0.7 number {number}", api_key=platform_key, external_id=str(number))
        for number in range(ITEMS // 2)
    ]

    def decide(item: QueueItem) -> None:
        user = moderators[item.pk % MODERATORS]
        try:
            held = actions.claim(item_id=item.pk, user=user)
            decision = actions.decide(
                item_id=held.pk, version=held.version, user=user, action=Decision.Action.APPROVE
            ).decision
            if item.pk % 2:
                actions.undo(decision_id=decision.pk, user=user)
        except StaleError:
            pass  # edited first
        finally:
            connection.close()

    def edit(send: Callable[[], object]) -> None:
        try:
            send()
        finally:
            connection.close()

    work = [
        threads.submit(function, argument)  # type: ignore[arg-type]
        for pair in zip(items, edits, strict=True)
        for function, argument in zip((decide, edit), pair, strict=True)
    ]
    for future in work:
        future.result()
    assert Submission.objects.filter(revision=2).count() == ITEMS // 2
    assert not QueueItem.objects.open().filter(submission__revision=1).exists()


def test_no_decision_follows_concurrent_decision_on_appeal(
    model: ModelVersion,
    policy: Policy,
    platform_key: APIKey,
    moderators: list[User],
    person: Callable[..., User],
    threads: ThreadPoolExecutor,
) -> None:
    Policy.objects.update(reject_audit_share=1.0, second_review_share=1.0)
    leads = [person("l1", "lead"), person("l2", "lead")]
    work = []
    for number in range(ITEMS // 2):
        text = f"threat=0.99 go and never come back to this forum or to any other place, number {number}"
        audit = create_queue_item(text, api_key=platform_key)
        rejection = audit.submission.decisions.get()
        item = actions.appeal_for(decision_id=rejection.pk, api_key=platform_key).item
        work.append((audit, moderators[number % MODERATORS], actions.decide))
        decide_appeal = actions.decide_cluster if number % 4 == 3 else actions.decide
        work.append((item, leads[number % 2], decide_appeal))
    rule = policy.rules.all()[0]

    def decide(item: QueueItem, user: User, action: Callable[..., object]) -> None:
        choice = Decision.Action.REJECT if item.submission_id.int % 2 else Decision.Action.APPROVE
        try:
            action(item_id=item.pk, version=item.version, user=user, action=choice, rule=rule)
        except StaleError:
            pass  # the other one was first
        finally:
            connection.close()

    for future in [threads.submit(decide, *arguments) for arguments in work]:
        future.result()
    items = QueueItem.objects.exclude(kind=QueueItem.Kind.SECOND)
    assert not items.open().exists()
    outcomes = Decision.objects.filter(item__kind=QueueItem.Kind.APPEAL)
    assert outcomes.exists()
    assert all(outcome == outcome.submission.current_decision() for outcome in outcomes)


def test_moderate_concurrently_with_same_external_id(
    model: ModelVersion, policy: Policy, platform_key: APIKey, threads: ThreadPoolExecutor
) -> None:
    def send(_: int) -> actions.ModerationResult:
        try:
            return actions.moderate(
                text="insult=0.7 you", api_key=platform_key, author_ref="troll", external_id="7"
            )
        finally:
            connection.close()

    results = list(threads.map(send, range(MODERATORS)))
    assert len({result.submission.pk for result in results}) == 1
    assert sum(not result.is_repeat for result in results) == 1
    assert (Submission.objects.count(), Prediction.objects.count(), QueueItem.objects.count()) == (1, 1, 1)


def test_moderate_concurrent_edits_are_revisions_in_a_row(
    model: ModelVersion, policy: Policy, platform_key: APIKey
) -> None:
    count = 24

    def send(number: int) -> int:
        try:
            result = actions.moderate(
                text=f"insult=0.7 you {number}", api_key=platform_key, author_ref="troll", external_id="7"
            )
            return result.submission.revision
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        revisions = list(pool.map(send, range(count)))
    assert sorted(revisions) == list(range(1, count + 1))
    submissions = list(Submission.objects.order_by("revision").select_related("previous"))
    assert [submission.previous for submission in submissions] == [None, *submissions[:-1]]
    assert QueueItem.objects.open().get().submission == submissions[-1]
    assert Prediction.objects.count() == count
