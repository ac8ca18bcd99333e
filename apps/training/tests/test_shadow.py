"""A challenger in the shadow: what it scores, how the two compare, and what moderators are asked."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied

from apps.accounts.models import User
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.core.permissions import SYSTEM
from apps.moderation.models import Policy, QueueItem, Submission
from apps.predictions import actions as predictions
from apps.predictions.models import Prediction
from apps.registry import actions as registry
from apps.registry.models import ModelVersion
from apps.training import shadow, tasks
from apps.training.models import ShadowScore

pytestmark = [pytest.mark.django_db, pytest.mark.database]
TEXTS = ["you are a stupid idiot", "thanks, that was kind of you", "the page was moved last week"]


@pytest.fixture
def all_of_it(settings: Any) -> None:
    settings.SHADOW_SHARE = 1.0


def scored(texts: list[str], **options: Any) -> list[Prediction]:
    return predictions.score(texts=texts, source=Prediction.Source.API, **options)[0]


def test_the_challenger_scores_what_was_stored_once(
    reversed_version: ModelVersion,
    champion: ModelVersion,
    all_of_it: None,
) -> None:
    made = scored(TEXTS)
    scored(["a secret idiot"], do_not_store=True)
    assert shadow.score_in_shadow() == len(TEXTS)
    tasks.score_in_shadow()
    rows = {row.prediction_id: row for row in ShadowScore.objects.all()}
    assert set(rows) == {prediction.pk for prediction in made}
    scorer = Scorer.load(reversed_version.modelartifact.artifact())
    for prediction in made:
        expected = scorer.score(prediction.text or "")
        assert [getattr(rows[prediction.pk], label) for label in LABELS] == pytest.approx(expected.tolist())
    scored(["one more"])
    assert shadow.score_in_shadow() == 1


def test_a_share_of_the_traffic_is_scored(
    reversed_version: ModelVersion,
    settings: Any,
) -> None:
    settings.SHADOW_SHARE = 0.3
    scored([f"comment {number}" for number in range(300)])
    first = shadow.score_in_shadow()
    assert 50 < first < 130
    assert shadow.score_in_shadow() == 0


def test_only_the_newest_scores_are_kept(
    reversed_version: ModelVersion,
    all_of_it: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shadow, "KEPT", 4)
    scored(TEXTS)
    shadow.score_in_shadow()
    made = scored(TEXTS)
    shadow.score_in_shadow()
    assert ShadowScore.objects.count() == 4
    kept = set(ShadowScore.objects.values_list("prediction", flat=True))
    assert {prediction.pk for prediction in made} <= kept


def test_without_a_challenger_nothing_is_scored(champion: ModelVersion, all_of_it: None) -> None:
    scored(TEXTS)
    ModelVersion.objects.exclude(pk=champion.pk).filter(alias="challenger").update(alias=None)
    assert shadow.score_in_shadow() == 0


def test_the_two_are_compared_on_the_same_comments(
    reversed_version: ModelVersion,
    champion: ModelVersion,
    all_of_it: None,
) -> None:
    assert shadow.compare(challenger=reversed_version, champion=champion).count == 0
    made = scored(TEXTS)
    shadow.score_in_shadow()
    compared = shadow.compare(challenger=reversed_version, champion=champion)
    assert compared.count == len(TEXTS)
    toxic = compared.labels[0]
    assert toxic.champion == pytest.approx(1 / 3)
    assert compared.flagged is not None
    assert compared.flagged[0] == pytest.approx(1 / 3)
    assert 0 <= toxic.agreement < 1
    assert toxic.distance > 0.1
    gaps = [abs(each.champion - each.challenger) for each in compared.differences]
    assert gaps == sorted(gaps, reverse=True)
    assert {each.prediction for each in compared.differences} == set(made)


def test_moderators_are_asked_where_they_differ(
    reversed_version: ModelVersion,
    champion: ModelVersion,
    all_of_it: None,
    policy: Policy,
    ann: User,
    person: Callable[..., User],
) -> None:
    made = scored(TEXTS)
    shadow.score_in_shadow()
    compared = shadow.compare(challenger=reversed_version, champion=champion)
    with pytest.raises(PermissionDenied):
        shadow.ask_for_labels(comparison=compared, by=ann)
    engineer = person("eve", "engineer")
    assert shadow.ask_for_labels(comparison=compared, by=engineer) == len(TEXTS)
    assert shadow.ask_for_labels(comparison=compared, by=engineer) == 0
    items = QueueItem.objects.open()
    assert {item.submission_id for item in items} == {prediction.pk for prediction in made}
    assert Submission.objects.count() == len(TEXTS)
    again = shadow.compare(challenger=reversed_version, champion=champion)
    assert all(each.is_queued for each in again.differences)


def test_a_promotion_leaves_the_old_comparison_alone(
    reversed_version: ModelVersion,
    champion: ModelVersion,
    all_of_it: None,
) -> None:
    scored(TEXTS)
    shadow.score_in_shadow()
    registry.promote(version=reversed_version, reason="r", actor=SYSTEM)
    assert shadow.score_in_shadow() == 0
    assert ShadowScore.objects.count() == len(TEXTS)
