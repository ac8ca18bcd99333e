"""Shadow evaluation: background scores, comparison, and requests for labels."""

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
from apps.training import actions, shadow, tasks
from apps.training.actions import shadow as shadow_actions
from apps.training.models import ShadowScore

pytestmark = [pytest.mark.django_db, pytest.mark.database]
TEXTS = ["you are a stupid idiot", "thanks, that was kind of you", "the page was moved last week"]


@pytest.fixture
def score_all(settings: Any) -> None:
    settings.SHADOW_SHARE = 1.0


def scored(texts: list[str], **options: Any) -> list[Prediction]:
    return predictions.score(texts=texts, source=Prediction.Source.API, **options)[0]


def test_score_in_shadow_scores_stored_comments_once(
    reversed_version: ModelVersion,
    champion: ModelVersion,
    score_all: None,
) -> None:
    made = scored(TEXTS)
    scored(["a secret idiot"], do_not_store=True)
    assert actions.score_in_shadow() == len(TEXTS)
    tasks.score_in_shadow()
    rows = {row.prediction_id: row for row in ShadowScore.objects.all()}
    assert set(rows) == {prediction.pk for prediction in made}
    scorer = Scorer.load(reversed_version.modelartifact.artifact())
    for prediction in made:
        expected = scorer.score(prediction.text or "")
        assert [getattr(rows[prediction.pk], label) for label in LABELS] == pytest.approx(expected.tolist())
    scored(["one more"])
    assert actions.score_in_shadow() == 1


def test_score_in_shadow_samples_share(
    reversed_version: ModelVersion,
    settings: Any,
) -> None:
    settings.SHADOW_SHARE = 0.3
    scored([f"comment {number}" for number in range(300)])
    first = actions.score_in_shadow()
    assert 50 < first < 130
    assert actions.score_in_shadow() == 0


def test_score_in_shadow_deletes_old_scores(
    reversed_version: ModelVersion,
    score_all: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shadow_actions, "MAX_SHADOW_SCORES", 4)
    scored(TEXTS)
    actions.score_in_shadow()
    made = scored(TEXTS)
    actions.score_in_shadow()
    assert ShadowScore.objects.count() == 4
    kept = set(ShadowScore.objects.values_list("prediction", flat=True))
    assert {prediction.pk for prediction in made} <= kept


def test_score_in_shadow_without_challenger(champion: ModelVersion, score_all: None) -> None:
    scored(TEXTS)
    ModelVersion.objects.exclude(pk=champion.pk).filter(alias="challenger").update(alias=None)
    assert actions.score_in_shadow() == 0


def test_compare_uses_comments_of_both(
    reversed_version: ModelVersion,
    champion: ModelVersion,
    score_all: None,
) -> None:
    assert shadow.compare(challenger=reversed_version, champion=champion).count == 0
    made = scored(TEXTS)
    actions.score_in_shadow()
    compared = shadow.compare(challenger=reversed_version, champion=champion)
    assert compared.count == len(TEXTS)
    toxic = compared.labels[0]
    assert toxic.champion == pytest.approx(1 / 3)
    assert compared.flagged is not None
    assert compared.flagged[0] == pytest.approx(1 / 3)
    assert 0 <= toxic.agreement < 1
    assert toxic.distance > 0.1
    gaps = [abs(row.champion - row.challenger) for row in compared.disagreements]
    assert gaps == sorted(gaps, reverse=True)
    assert {row.prediction for row in compared.disagreements} == set(made)


def test_request_labels_queues_disagreements(
    reversed_version: ModelVersion,
    champion: ModelVersion,
    score_all: None,
    policy: Policy,
    ann: User,
    person: Callable[..., User],
) -> None:
    made = scored(TEXTS)
    actions.score_in_shadow()
    compared = shadow.compare(challenger=reversed_version, champion=champion)
    with pytest.raises(PermissionDenied):
        actions.request_labels(actor=ann, comparison=compared)
    engineer = person("eve", "engineer")
    assert actions.request_labels(actor=engineer, comparison=compared) == len(TEXTS)
    assert actions.request_labels(actor=engineer, comparison=compared) == 0
    items = QueueItem.objects.open()
    assert {item.submission_id for item in items} == {prediction.pk for prediction in made}
    assert Submission.objects.count() == len(TEXTS)
    again = shadow.compare(challenger=reversed_version, champion=champion)
    assert all(row.is_queued for row in again.disagreements)


def test_score_in_shadow_after_promotion(
    reversed_version: ModelVersion,
    champion: ModelVersion,
    score_all: None,
) -> None:
    scored(TEXTS)
    actions.score_in_shadow()
    registry.promote(version=reversed_version, reason="r", actor=SYSTEM)
    assert actions.score_in_shadow() == 0
    assert ShadowScore.objects.count() == len(TEXTS)
