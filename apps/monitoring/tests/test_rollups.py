from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.accounts.models import User
from apps.moderation import actions as moderation
from apps.moderation.models import Decision, Policy, QueueItem, Submission
from apps.monitoring import actions, tasks
from apps.monitoring.exceptions import IncompleteRollupError
from apps.monitoring.models import (
    IDENTITY_GROUPS,
    HourlyRollup,
    IncompleteHour,
    RequestMinute,
    RollupProgress,
)
from apps.monitoring.rollups.hours import start_of_hour
from apps.monitoring.rollups.origins import Database
from apps.predictions import actions as predictions
from apps.predictions.actions import give_feedback
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_prediction, decide_item, rollup_rows
from toxicmod.testing.perspective import post_json

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("start_of_hour")]

HOUR = timedelta(hours=1)


@pytest.fixture
def hour() -> datetime:
    """Return the hour before the last full one."""
    return start_of_hour(timezone.now()) - 2 * HOUR


def test_roll_up_counts_by_community_and_overall(champion: ModelVersion, hour: datetime) -> None:
    create_prediction(
        champion, hour, toxic=0.99, label_mask=1, community="a", text="Kind women " + "x" * 89, latency_us=999
    )
    create_prediction(
        champion,
        hour + timedelta(minutes=59),
        toxic=1.0,
        threat=0.5,
        label_mask=0b1001,
        community="b",
        text=None,
    )
    create_prediction(champion, hour + HOUR, source="page")
    actions.roll_up()
    rollup = HourlyRollup.objects.of_community("a").get()
    assert (rollup.hour, rollup.requests, rollup.any_flagged, rollup.sampled) == (hour, 1, 1, 1)
    assert rollup.flagged.tolist() == [1, 0, 0, 0, 0, 0]
    assert rollup.scores[0].tolist() == [0] * 49 + [1]
    assert rollup.scores[1].tolist() == [1] + [0] * 49
    assert np.flatnonzero(rollup.latency).tolist() == [19]  # from 794 to 1,000 µs
    assert np.flatnonzero(rollup.lengths).tolist() == [12]  # from 100 characters
    assert rollup.ngrams[0] > rollup.ngrams[1] > 0
    assert rollup.identity_groups[IDENTITY_GROUPS.index("women")].tolist() == [1, 1]
    assert HourlyRollup.objects.of_community("b").get().lengths.sum() == 0
    overall = HourlyRollup.objects.overall().get(hour=hour)
    assert (overall.requests, overall.any_flagged, overall.source) == (2, 2, "api")
    assert overall.flagged.tolist() == [2, 0, 0, 1, 0, 0]
    assert overall.scores[3, 25] == 1
    assert HourlyRollup.objects.overall().get(hour=hour + HOUR).source == "page"


def test_roll_up_is_idempotent(champion: ModelVersion, hour: datetime) -> None:
    for minute in range(20):
        create_prediction(champion, hour + timedelta(minutes=6 * minute), community=f"c{minute % 3}")
    assert actions.roll_up() == 3
    before = rollup_rows()
    actions.roll_up()
    assert actions.roll_up(since=hour - HOUR) == 4
    assert rollup_rows() == before
    assert sum(row.requests for row in HourlyRollup.objects.overall()) == 20


def test_roll_up_counts_row_stored_late(champion: ModelVersion, hour: datetime) -> None:
    create_prediction(champion, hour - 5 * HOUR)
    actions.roll_up()
    create_prediction(champion, hour - 5 * HOUR)  # `created_at` is hours ago, but the row is stored now
    create_prediction(champion, hour - 3 * HOUR)
    actions.roll_up()
    rows = HourlyRollup.objects.overall().filter(requests__gt=0).order_by("hour")
    assert [(row.hour, row.requests) for row in rows] == [(hour - 5 * HOUR, 2), (hour - 3 * HOUR, 1)]


def test_roll_up_recount_finds_row_committed_late(champion: ModelVersion, hour: datetime) -> None:
    create_prediction(champion, hour, id="01900000-0000-7000-8000-000000000001")
    actions.roll_up()
    actions.roll_up()
    create_prediction(champion, hour, id="01900000-0000-7000-8000-000000000002")
    actions.roll_up(now=hour + 3 * HOUR)
    assert HourlyRollup.objects.overall().get(hour=hour).requests == 1
    actions.roll_up(now=hour + 9 * HOUR)
    assert HourlyRollup.objects.overall().get(hour=hour).requests == 2


def test_roll_up_does_nothing_while_lease_is_held(champion: ModelVersion, hour: datetime) -> None:
    create_prediction(champion, hour)
    progress = RollupProgress.objects.create(
        origin="database",
        lease_owner="01900000-0000-7000-8000-000000000000",
        lease_expires_at=timezone.now() + HOUR,
    )
    assert actions.roll_up() == 0
    assert not HourlyRollup.objects.exists()
    progress.lease_expires_at = timezone.now()  # the process that held it has been killed
    progress.save()
    assert actions.roll_up() == 3
    progress.refresh_from_db()
    assert progress.lease_owner is None


def test_roll_up_stops_after_losing_lease(champion: ModelVersion, hour: datetime) -> None:
    create_prediction(champion, hour)
    create_prediction(champion, hour + HOUR)

    def take_over(at: datetime, left: int) -> None:
        if at == hour + HOUR:
            RollupProgress.objects.update(lease_owner="01900000-0000-7000-8000-000000000000")

    assert actions.roll_up(report=take_over) == 0
    assert {row.hour for row in HourlyRollup.objects.all()} == {hour}
    assert RollupProgress.objects.get().lease_owner is not None


def test_roll_up_counts_decisions_outcomes_and_feedback(
    model: ModelVersion,
    policy: Policy,
    ann: User,
) -> None:
    items = []
    for text in ("toxic=0.7 insult=0.65 you", "toxic=0.75 you"):
        answer = moderation.moderate(text=text, community="forum", author_ref="x")
        assert answer.item is not None
        items.append(answer.item)
    moderation.moderate(text="a kind word", community="forum", author_ref="x")
    QueueItem.objects.filter(pk=items[1].pk).update(kind="audit", sampling_chance=0.1)
    rule = policy.rules.get(label="toxic")
    rejected, approved = (moderation.claim(item_id=item.pk, user=ann) for item in items)
    moderation.decide(
        item_id=rejected.pk,
        version=rejected.version,
        user=ann,
        action=Decision.Action.REJECT,
        rule=rule,
        labels=["toxic"],
    )
    decided = moderation.decide(
        item_id=approved.pk, version=approved.version, user=ann, action=Decision.Action.APPROVE
    )
    give_feedback(prediction=items[0].submission.prediction, is_right=True)
    give_feedback(
        prediction=items[1].submission.prediction,
        is_right=False,
        true_labels=["insult"],
        known_labels=["insult"],
    )
    actions.roll_up(since=timezone.now())
    row = HourlyRollup.objects.of_community("forum").get()
    assert (row.requests, row.queued, row.approved, row.rejected, row.reversed) == (3, 2, 1, 1, 0)
    assert row.outcomes == {"approve": 1, "human_review": 2}
    assert row.decision_times.sum() == 2
    assert (row.feedback_right, row.feedback_wrong) == (1, 1)
    # Label toxic, eighth decile, predicted: one rejection of weight 1, one approval of weight 10.
    assert row.moderator_confusion[0, 7, 1].tolist() == [[10, 100], [1, 1]]
    assert row.moderator_confusion[4, 6, 1].tolist() == [[1, 1], [0, 0]]
    assert row.feedback_confusion[:, :, :, :, 0].sum() == 6 + 1
    assert row.feedback_confusion[4, 0, 0, 1].tolist() == [1, 1]
    moderation.undo(decision_id=decided.decision.pk, user=ann)
    actions.roll_up()
    row.refresh_from_db()
    assert (row.approved, row.reversed, row.escalations_reversed) == (1, 1, 0)
    assert row.moderator_confusion[0, 7, 1].tolist() == [[0, 0], [1, 1]]
    reopened = moderation.claim(item_id=approved.pk, user=ann)
    escalated = moderation.decide(
        item_id=approved.pk, version=reopened.version, user=ann, action=Decision.Action.ESCALATE
    )
    moderation.undo(decision_id=escalated.decision.pk, user=ann)
    actions.roll_up()
    row.refresh_from_db()
    assert (row.approved, row.escalated, row.reversed, row.escalations_reversed) == (1, 1, 2, 1)


def test_roll_up_counts_errors_under_champion(champion: ModelVersion, hour: datetime) -> None:
    RequestMinute.objects.create(
        minute=hour, source="api", process="a:1", requests=5, client_errors=1, errors=2, latency=np.zeros(60)
    )
    actions.roll_up()
    row = HourlyRollup.objects.get()
    assert (row.overall, row.version, row.source, row.requests, row.errors) == (True, champion, "api", 0, 2)


def test_roll_up_query_count_is_independent_of_predictions(champion: ModelVersion, hour: datetime) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            actions.roll_up(since=hour)
        return len(captured)

    create_prediction(champion, hour)
    queries(), queries()  # the first runs load the model and recount old hours
    count = queries()
    for number in range(200):
        create_prediction(champion, hour + timedelta(seconds=number), community=f"c{number % 7}")
    assert queries() == count


def test_roll_up_command_counts_and_rejects_invalid_date(
    champion: ModelVersion, hour: datetime, capsys: pytest.CaptureFixture[str]
) -> None:
    create_prediction(champion, hour)
    call_command("roll_up")
    assert "3 hours counted" in capsys.readouterr().out
    call_command("roll_up", "--since", f"{hour:%Y-%m-%dT%H:%MZ}")
    assert "3 hours counted" in capsys.readouterr().out
    with pytest.raises(CommandError, match="--since: write YYYY-MM-DD"):
        call_command("roll_up", "--since", "yesterday")


def test_roll_up_counts_comments_queued_by_active_learning(
    model: ModelVersion, policy: Policy, ann: User, hour: datetime
) -> None:
    """The submission of a comment that was only scored has no outcome of the policy."""
    moderation.moderate(text="toxic=0.7 waits for a moderator", community="forum")
    scored, _ = predictions.score(
        texts=["toxic=0.45 the model is unsure"], source=Prediction.Source.API, community="forum"
    )
    (item,) = moderation.queue_for_labeling(count=1)
    assert item.submission.outcome == Submission.Outcome.NOT_MODERATED
    assert item.submission.prediction == scored[0]
    give_feedback(prediction=scored[0], is_right=True)
    actions.roll_up(since=hour)
    row = HourlyRollup.objects.of_community("forum").get()
    assert (row.requests, row.queued, row.feedback_right) == (2, 2, 1)
    assert row.outcomes == {"human_review": 1}
    actions.roll_up()
    assert RollupProgress.objects.get().counted_until is not None


def test_roll_up_command_after_queue_for_labeling(
    client: Client, model: ModelVersion, policy: Policy
) -> None:
    for number in range(20):
        words = " ".join(f"{word}{number}" for word in ("matter", "thing", "story", "reader", "place"))
        text = f"toxic=0.45 {words}"
        assert post_json(client, {"text": text, "community": "forum"}, "/api/v1/predict").status_code == 200
    call_command("queue_for_labeling", "--count", "3")
    call_command("roll_up")
    tasks.roll_up()  # as the worker does, every five minutes
    for rows in (HourlyRollup.objects.of_community("forum"), HourlyRollup.objects.overall()):
        row = rows.get()
        assert (row.requests, row.queued, row.outcomes) == (20, 3, {})
    assert not IncompleteHour.objects.exists()


class BrokenHour(Database):
    """A database of which one hour can't be read."""

    def __init__(self, broken: datetime) -> None:
        self.broken: datetime | None = broken

    def predictions(self, hour: datetime) -> Any:
        if hour == self.broken:
            raise ValueError("a comment may be quoted here")
        return super().predictions(hour)


def test_roll_up_counts_other_hours_when_one_fails(champion: ModelVersion, hour: datetime) -> None:
    for number in range(3):
        create_prediction(champion, hour - number * HOUR, id=f"01900000-0000-7000-8000-00000000000{number}")
    origin = BrokenHour(hour - HOUR)
    # Beyond OVERLAP, so that the hour before is not counted again.
    now = hour + 2 * HOUR + timedelta(minutes=40)
    with pytest.raises(IncompleteRollupError, match="1 of 5 hours"):
        actions.roll_up(origin=origin, now=now)
    rows = HourlyRollup.objects.overall()
    assert {row.hour for row in rows} == {hour, hour - 2 * HOUR}
    failed = IncompleteHour.objects.get()
    assert (failed.hour, failed.skipped, failed.attempts) == (hour - HOUR, None, 1)
    assert failed.error.startswith("ValueError in apps/monitoring/tests/test_rollups.py, line ")
    RollupProgress.objects.update(recounted_at=now)
    assert actions.roll_up(origin=origin, now=now) == 1  # its retry is not due yet
    retried_at = now + timedelta(minutes=6)
    with pytest.raises(IncompleteRollupError):
        actions.roll_up(origin=origin, now=retried_at)
    failed.refresh_from_db()
    assert failed.attempts == 2
    assert timedelta(minutes=9) <= failed.retry_at - retried_at <= timedelta(minutes=10)
    origin.broken = None
    actions.roll_up(origin=origin, now=retried_at + timedelta(minutes=11))
    assert not IncompleteHour.objects.exists()
    assert rows.get(hour=hour - HOUR).requests == 1


def test_roll_up_skips_rows_that_cannot_be_counted(
    model: ModelVersion, policy: Policy, ann: User, hour: datetime
) -> None:
    create_prediction(model, hour, community="forum")
    create_prediction(model, hour, community="forum", toxic=float("inf"))
    decided = []
    for number in range(2):
        answer = moderation.moderate(text=f"toxic=0.7 you {number}", community="forum", author_ref="x")
        assert answer.item is not None
        item = moderation.claim(item_id=answer.item.pk, user=ann)
        decided.append(
            moderation.decide(
                item_id=item.pk, version=item.version, user=ann, action=Decision.Action.APPROVE
            ).decision
        )
    with connection.cursor() as cursor:
        cursor.execute("UPDATE moderation_decision SET action = 'pause' WHERE id = %s", [decided[0].pk])
    with pytest.raises(IncompleteRollupError, match="2 of 3 hours"):
        actions.roll_up()
    assert HourlyRollup.objects.of_community("forum").get(hour=hour).requests == 1
    now = HourlyRollup.objects.of_community("forum").get(hour=start_of_hour(timezone.now()))
    assert (now.requests, now.approved) == (2, 1)
    assert list(IncompleteHour.objects.order_by("hour").values_list("skipped", "error")) == [
        (1, "A score, a time or a length is missing or is not a finite number."),
        (1, "No column counts decisions with the action “pause”."),
    ]


def test_roll_up_counts_outcome_of_another_release(
    model: ModelVersion, policy: Policy, hour: datetime
) -> None:
    moderation.moderate(text="a kind word", community="forum")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE moderation_submission SET outcome = 'quarantine'")
    actions.roll_up()
    assert HourlyRollup.objects.of_community("forum").get().outcomes == {"quarantine": 1}


def test_reviews_that_a_person_requested_are_no_sample(
    champion: ModelVersion, policy: Policy, lea: User, ann: User
) -> None:
    prediction = create_prediction(champion, timezone.now() - timedelta(minutes=1))
    decide_item(moderation.request_review(prediction=prediction, by=lea), ann)
    actions.roll_up()
    assert sum(np.sum(row.moderator_confusion) for row in HourlyRollup.objects.overall()) == 0
    assert sum(np.sum(row.decision_times) for row in HourlyRollup.objects.overall()) == 1


def test_roll_up_counts_review_requested_later(
    champion: ModelVersion, policy: Policy, lea: User, hour: datetime
) -> None:
    prediction = create_prediction(champion, hour)
    actions.roll_up()
    rows = HourlyRollup.objects.overall()
    assert rows.get(hour=hour).outcomes == {}
    moderation.request_review(prediction=prediction, by=lea)
    actions.roll_up()
    assert rows.get(hour=hour).outcomes == {"human_review": 1}


def test_undone_old_decision_keeps_errors_of_its_hour(model: ModelVersion, policy: Policy, ann: User) -> None:
    old = start_of_hour(timezone.now() - timedelta(days=10)) + timedelta(minutes=5)
    with patch("django.utils.timezone.now", return_value=old):
        item = moderation.moderate(text="toxic=0.7 you", community="forum").item
        assert item is not None
        item = moderation.claim(item_id=item.pk, user=ann)
        decided = moderation.decide(
            item_id=item.pk, version=item.version, user=ann, action=Decision.Action.APPROVE
        )
        minute = {"requests": 5, "client_errors": 0, "errors": 2, "latency": np.zeros(60)}
        RequestMinute.objects.create(minute=old, source="api", process="a:1", **minute)
        actions.roll_up()
    rows = HourlyRollup.objects.overall().filter(hour=start_of_hour(old))
    assert sum(row.moderator_confusion.sum() for row in rows) > 0
    assert sum(row.errors for row in rows) == 2
    actions.roll_up()
    assert not RequestMinute.objects.exists()
    moderation.undo(decision_id=decided.decision.pk, user=ann)
    actions.roll_up()
    assert sum(row.moderator_confusion.sum() for row in rows.all()) == 0
    assert sum(row.errors for row in rows.all()) == 2
    actions.roll_up(since=old)
    assert sum(row.errors for row in rows.all()) == 2
