"""Sizes of views, statistics, agreement, exposure and the simulator."""

import itertools
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from django.core.cache import cache
from django.core.exceptions import PermissionDenied, ValidationError
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from apps.accounts.models import User
from apps.classifier.labels import LABELS
from apps.moderation import actions, saved_views, statistics
from apps.moderation.models import Decision, Policy, Preference, QueueItem
from apps.moderation.simulator import simulate
from apps.moderation.tasks import log_queue_age
from apps.predictions import actions as predictions
from apps.predictions.models import ALL_LABELS, Prediction
from apps.registry import serving
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_queue_item, decide_item, restrict_to_communities

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def counts(user: User) -> dict[str, tuple[int, int]]:
    return {view.view: (view.count, view.overdue) for view in saved_views.view_counts(user)}


def test_view_counts_are_limited_to_visible_items(
    model: ModelVersion, policy: Policy, ann: User, ben: User
) -> None:
    late = create_queue_item("threat=0.9", community="news")
    QueueItem.objects.filter(pk=late.pk).update(due_at=timezone.now() - timedelta(minutes=1))
    create_queue_item("insult=0.7", community="games")
    actions.claim(item_id=late.pk, user=ann)
    by_view = counts(ann)
    assert (by_view["all"], by_view["urgent"], by_view["overdue"], by_view["mine"]) == (
        (2, 1),
        (1, 1),
        (1, 1),
        (1, 1),
    )
    restrict_to_communities(ben, "games")
    assert counts(ben)["all"] == (1, 0)


def test_log_queue_age(model: ModelVersion, policy: Policy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="apps.moderation.statistics")
    log_queue_age()
    old = create_queue_item("insult=0.7")
    QueueItem.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(hours=5))
    create_queue_item("threat=0.9")
    log_queue_age()
    assert [record.queue_age_seconds for record in caplog.records] == [0, pytest.approx(18_000, abs=60)]


def test_view_counts_stop_at_max_count(
    model: ModelVersion, policy: Policy, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_views, "MAX_COUNT", 2)
    for number in range(5):
        create_queue_item(f"insult=0.7 number {number}")
    everything = saved_views.view_counts(ann)[1]
    assert (everything.view, everything.count, everything.count_text) == ("all", 3, "2+")


def test_view_counts_query_count_is_bounded(
    policy: Policy, ann: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_max_num_queries(35):
        saved_views.view_counts(ann)
    with django_assert_max_num_queries(5):
        saved_views.view_counts(ann)


@pytest.mark.parametrize(
    ("pairs", "kappa"),
    [
        # Calculated by hand: (0.7 - 0.5) / (1 - 0.5).
        ({(True, True): 20, (True, False): 5, (False, True): 10, (False, False): 15}, 0.4),
        ({(True, True): 5, (False, False): 5}, 1.0),
        ({(True, False): 5, (False, True): 5}, -1.0),
        ({(False, False): 9}, None),
        ({}, None),
    ],
)
def test_cohen_kappa(pairs: dict[tuple[bool, bool], int], kappa: float | None) -> None:
    expected = None if kappa is None else pytest.approx(kappa)
    assert statistics.cohen_kappa(Counter(pairs)).kappa == expected


def test_cohen_kappa_of_agreement_by_chance_is_exactly_zero() -> None:
    for first, second in itertools.product(range(1, 12), repeat=2):
        pairs = {(True, True): first * second, (True, False): first, (False, True): second, (False, False): 1}
        assert statistics.cohen_kappa(Counter(pairs)).kappa == 0


def test_agreement_of_blind_reviews(model: ModelVersion, policy: Policy, ann: User, ben: User) -> None:
    Policy.objects.update(second_review_share=1)
    for number, second_action in enumerate(("reject", "reject", "approve", "approve")):
        first_action = "reject" if number < 3 else "approve"
        decide_item(create_queue_item(f"insult=0.7 number {number}"), ann, first_action)
        second = QueueItem.objects.get(kind="second", status="open")
        decide_item(second, ben, second_action, labels=["insult"] if second_action == "reject" else [])
    by_label, by_pair = statistics.agreement()
    assert (by_label["insult"].count, by_label["insult"].agreed) == (4, 3)
    assert by_label["insult"].kappa == pytest.approx(0.5)
    assert list(by_pair) == [("ann", "ben")]
    assert by_pair["ann", "ben"].agreed == 3


def test_moderator_statistics(model: ModelVersion, policy: Policy, ann: User, lea: User) -> None:
    first = decide_item(create_queue_item("insult=0.7 one"), ann, seconds=10.0).decision
    decide_item(create_queue_item("insult=0.7 two"), ann, "approve", seconds=20.0)
    actions.undo(decision_id=first.pk, user=lea)
    result = statistics.moderator_statistics(ann)
    assert (result.decisions, result.mean_seconds, result.overturned, result.overturn_rate) == (
        1,
        20.0,
        1,
        0.5,
    )
    assert result.actions == {"approve": 1, "reject": 0, "escalate": 0}
    assert result.by_day == [(timezone.now().date(), 1)]
    actions.release(item_id=first.item.pk, user=lea)
    second = decide_item(first.item, ann, seconds=40.0).decision
    actions.undo(decision_id=second.pk, user=ann)
    assert statistics.moderator_statistics(ann) == result


def test_mean_seconds_counts_zero_but_no_applied_decision(
    model: ModelVersion, policy: Policy, ann: User, lea: User
) -> None:
    decide_item(create_queue_item("insult=0.7 one"), ann, "approve", seconds=0.0)
    items = [create_queue_item("insult=0.7 the very same words") for _ in range(3)]
    held = actions.claim(item_id=items[0].pk, user=ann)
    actions.decide_cluster(
        item_id=held.pk, version=held.version, user=ann, action=Decision.Action.APPROVE, seconds=30.0
    )
    assert statistics.moderator_statistics(ann).mean_seconds == 15.0
    assert simulate(user=lea, rules=[]).seconds_per_item == 15.0


def test_shift_exposure_suggests_break_at_limit(model: ModelVersion, policy: Policy, ann: User) -> None:
    actions.set_preferences(user=ann, exposure_limit=2, greyscale=True)
    decide_item(create_queue_item("insult=0.7 mild"), ann)
    decide_item(create_queue_item("threat=0.9 one"), ann)
    assert not statistics.shift_exposure(ann).suggests_break
    decide_item(create_queue_item("threat=0.9 two"), ann)
    shift = statistics.shift_exposure(ann)
    assert (shift.severe, shift.limit, shift.suggests_break) == (2, 2, True)
    again = Decision.objects.latest("pk")
    actions.undo(decision_id=again.pk, user=ann)
    decide_item(again.item, ann)
    assert statistics.shift_exposure(ann).severe == 2  # comments, not decisions
    preference = Preference.for_user(ann)
    assert (preference.masked, preference.greyscale, preference.exposure_limit) == (True, True, 2)
    with pytest.raises(ValidationError, match="volume"):
        actions.set_preferences(user=ann, volume=11)


def test_simulate_applies_thresholds_to_past_traffic(model: ModelVersion, policy: Policy, lea: User) -> None:
    for number in range(10):
        actions.moderate(text=f"insult={number / 10} number {number}")
    rules = [{"label": "insult", "review_from": 0.5, "reject_from": 0.8}]
    result = simulate(user=lea, rules=rules)
    assert (result.sample, result.reject_share, result.review_share) == (10, 0.2, pytest.approx(0.3))
    assert result.approve_share == pytest.approx(0.5)
    assert result.hours_per_day == pytest.approx(result.queue_per_day * result.seconds_per_item / 3_600)
    audited = simulate(user=lea, rules=rules, audit_share=0.5)
    assert audited.queue_per_day > result.queue_per_day
    assert (result.precision.value, result.recall.value, result.labelled) == (None, None, 0)


def test_simulate_without_languages_needs_no_model_in_service(
    model: ModelVersion, policy: Policy, lea: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions.moderate(text="insult=0.9 number 1")
    monkeypatch.setattr(serving, "current", Mock(side_effect=AssertionError))
    assert simulate(user=lea, rules=[{"label": "insult", "reject_from": 0.8}]).reject_share == 1


def test_simulate_reviews_other_languages(model: ModelVersion, policy: Policy, ann: User, lea: User) -> None:
    greek = "Καλημέρα σε όλους, σήμερα πάμε στην αγορά. "
    Policy.objects.update(audit_share=1)
    for text in (
        "Good morning everybody, we go to the market.",
        "insult=0.9 in English",
        greek + "insult=0.9",
    ):
        actions.moderate(text=text)
    decide_item(create_queue_item(greek), ann, "reject")
    rules = [{"label": "insult", "reject_from": 0.8}]
    result = simulate(user=lea, rules=rules)
    assert (result.sample, result.reject_share, result.review_share) == (4, 0.5, 0)
    assert (result.labelled, result.recall.value) == (1, 0)
    result = simulate(user=lea, rules=rules, review_other_languages=True)
    assert (result.sample, result.reject_share, result.review_share) == (4, 0.25, 0.5)
    assert (result.labelled, result.recall.value) == (1, 1)
    assert simulate(user=lea, rules=rules, community="club", review_other_languages=True).sample == 0


def test_simulate_weights_audits_by_sampling_chance(
    model: ModelVersion, policy: Policy, ann: User, lea: User
) -> None:
    """Four flagged comments were reviewed, and one in a hundred of the others: its weight is a hundred."""
    for number, action in enumerate(("reject", "reject", "reject", "approve")):
        decide_item(create_queue_item(f"insult=0.7 number {number}"), ann, action)
    Policy.objects.update(audit_share=1)
    audit = create_queue_item("insult=0.1 unseen")
    QueueItem.objects.filter(pk=audit.pk).update(sampling_chance=0.01)
    decide_item(audit, ann, "reject")
    result = simulate(user=lea, rules=[{"label": "insult", "review_from": 0.5}])
    assert result.precision.value == pytest.approx(0.75)
    assert result.recall.value == pytest.approx(3 / 103)
    assert result.recall.low is not None
    assert result.recall.high is not None
    assert result.recall.low < 3 / 103 < result.recall.high
    assert result.recall.high > 0.6


def test_simulate_requires_manage_policy(policy: Policy, ann: User) -> None:
    with pytest.raises(PermissionDenied):
        simulate(user=ann, rules=[])


def test_record_presence_returns_other_viewers(
    item: QueueItem, ann: User, ben: User, person: Callable[..., User]
) -> None:
    assert actions.record_presence(item=item, user=ann) == []
    assert actions.record_presence(item=item, user=ben) == ["ann"]


def test_stated_labels_of_rejection_without_labels() -> None:
    insult = 1 << LABELS.index("insult")
    assert statistics.stated_labels("approve", None, None) == (0, ALL_LABELS)
    assert statistics.stated_labels("reject", insult, "threat") == (insult, ALL_LABELS)
    assert statistics.stated_labels("reject", 0, "threat") == (0, ALL_LABELS)
    assert statistics.stated_labels("reject", None, "insult") == (insult, insult)
    assert statistics.stated_labels("reject", None, "") == (0, 0)


def test_priority_explanation_by_probability(model: ModelVersion, policy: Policy) -> None:
    def line(text: str, **options: Any) -> str:
        return create_queue_item(text, **options).priority_explanation

    quiet = " ".join(f"{label}=0.001" for label in LABELS)
    assert line(f"{quiet} toxic=0.002 fine", example=True) == (
        "Example comment · no label is likely (highest: toxic under 1%)"
    )
    assert line("insult=0.13 fine", example=True).startswith("Example comment · no label is likely")
    assert "possibly insult (35%)" in line("insult=0.35 well", example=True)
    assert line("threat=0.9 you").startswith("Likely threat (90%) · high severity")
    assert "Possibly threat (21%)" in line("threat=0.21 you")
    prediction = predictions.score(texts=["fine"], source=Prediction.Source.API)[0][0]
    item = actions.request_review(prediction=prediction, by=User.objects.create_superuser("root"))
    assert item is not None
    assert item.priority_explanation.startswith("Sent to review by a colleague · no label is likely")


def test_agreement_pairs_no_moderator_with_himself(
    model: ModelVersion, policy: Policy, ann: User, ben: User
) -> None:
    Policy.objects.update(second_review_share=1)
    item = create_queue_item("insult=0.7 you fool")
    first = decide_item(item, ann)
    decide_item(QueueItem.objects.get(kind=QueueItem.Kind.SECOND), ben, "approve")
    ((pair, _),) = statistics.agreement()[1].items()
    assert pair == ("ann", "ben")
    actions.undo(decision_id=first.decision.pk, user=ann, lease=False)
    decide_item(QueueItem.objects.get(pk=item.pk), ben, "approve")
    cache.clear()
    assert not statistics.agreement()[1]
