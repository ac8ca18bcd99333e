"""A canary serves its share of the requests; the champion replaces it if it fails."""

from datetime import timedelta

import pytest
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction

from apps.accounts.models import User
from apps.classifier.scorer import Scorer
from apps.core.permissions import SystemActor
from apps.predictions import actions as predictions
from apps.predictions.models import Prediction
from apps.registry import actions, serving
from apps.registry.exceptions import RegistryError
from apps.registry.models import (
    Alias,
    Canary,
    CanaryEnd,
    CanaryFailure,
    ModelArtifact,
    ModelVersion,
)
from toxicmod.testing.factories import promote_version, register_copy

pytestmark = [pytest.mark.django_db, pytest.mark.database]
TEXTS = [f"comment number {number}" for number in range(200)]


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.registry.serving.CHECK_SECONDS", 0.0)


def start(version: ModelVersion, share: float = 0.25) -> Canary:
    return actions.start_canary(version=version, share=share, reason="a trial", actor=SystemActor("ann"))


def end(outcome: CanaryEnd.Outcome = CanaryEnd.Outcome.WITHDRAWN) -> CanaryEnd:
    return actions.end_canary(outcome=outcome, reason="enough", actor=SystemActor("ann"))


def served() -> list[int]:
    """The version that each text is scored by."""
    return [
        predictions.score(texts=[text], source=Prediction.Source.API)[0][0].model_version_id for text in TEXTS
    ]


def test_route_sends_share_of_texts_to_canary(champion: ModelVersion) -> None:
    version = register_copy(champion)
    assert set(served()) == {champion.pk}
    canary = start(version)
    first = served()
    assert 25 <= first.count(version.pk) <= 75
    assert first.count(champion.pk) == len(TEXTS) - first.count(version.pk)
    assert served() == first
    version.refresh_from_db()
    assert (version.alias, version.share, canary.champion) == (Alias.CANARY, 0.25, champion)
    ended = end()
    assert set(served()) == {champion.pk}
    version.refresh_from_db()
    assert (version.alias, version.share, ended.actor) == (Alias.CHALLENGER, None, "ann")
    assert Canary.objects.running() is None


@pytest.mark.parametrize(
    ("seconds", "key", "was_routed"),
    [(0, "00000000", True), (5, "00000000", True), (5, "ffffffff", False), (60, "00000000", False)],
)
def test_was_routed_to_ended_canary(
    champion: ModelVersion, seconds: float, key: str, was_routed: bool
) -> None:
    version = register_copy(champion)
    started = start(version).created_at
    assert not serving.was_routed(key, version.pk, started - timedelta(seconds=1))
    assert serving.was_routed(key, version.pk, started) == (key == "00000000")
    at = end().created_at + timedelta(seconds=seconds)
    assert serving.was_routed(key, version.pk, at) == was_routed
    assert serving.was_routed(key, champion.pk, at)


@pytest.mark.parametrize(("seconds", "was_routed"), [(-0.001, True), (5, True), (60, False)])
def test_was_routed_to_replaced_champion(champion: ModelVersion, seconds: float, was_routed: bool) -> None:
    version = register_copy(champion)
    promoted = promote_version(version).created_at
    at = promoted + timedelta(seconds=seconds)
    assert serving.was_routed("00000000", champion.pk, at) == was_routed
    assert serving.was_routed("00000000", version.pk, at) == (at > promoted)


def test_score_uses_one_model_per_batch(champion: ModelVersion) -> None:
    start(register_copy(champion), share=0.5)
    made = [predictions.score(texts=TEXTS[n : n + 5], source=Prediction.Source.API)[0] for n in range(50)]
    versions = [{prediction.model_version_id for prediction in batch} for batch in made]
    assert all(len(numbers) == 1 for numbers in versions)
    assert len(set.union(*versions)) == 2


def test_pinned_canary_is_the_loaded_one(champion: ModelVersion) -> None:
    version = register_copy(champion)
    start(version, share=0.5)
    pinned = serving.pinned(version.number)
    assert pinned.version_id == version.pk
    assert serving.route("00000000") is pinned


def test_fall_back_to_champion_if_canary_fails(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register_copy(champion)
    start(version, share=0.5)
    serving.current()
    healthy = Scorer.rate
    tried = serving._server.canary
    assert tried is not None

    def rate(scorer: Scorer, texts: list[str], threads: int | None = None) -> object:
        if scorer is tried.model.scorer:
            raise ZeroDivisionError(texts[0])
        return healthy(scorer, texts, threads)

    monkeypatch.setattr(Scorer, "rate", rate)
    assert set(served()) == {champion.pk}
    failures = CanaryFailure.objects.filter(version=version)
    assert 50 <= failures.count() <= 150
    assert {failure.error for failure in failures} == {"ZeroDivisionError"}
    monkeypatch.setattr(Scorer, "rate", lambda scorer, texts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        served()


def test_damaged_canary_is_recorded_as_failure(champion: ModelVersion) -> None:
    version = register_copy(champion)
    start(version, share=0.5)
    stored = ModelArtifact.objects.get(version=version)
    ModelArtifact.objects.filter(version=version).update(weights=bytes(stored.weights)[:-100])
    assert set(served()) == {champion.pk}
    assert [failure.error for failure in CanaryFailure.objects.all()] == ["ArtifactError"]


def test_promote_ends_canary(champion: ModelVersion) -> None:
    version = register_copy(champion)
    start(version)
    other = register_copy(champion)
    promote_version(other)
    ended = CanaryEnd.objects.get()
    assert ended.outcome == CanaryEnd.Outcome.WITHDRAWN
    assert f"{other} became champion" in ended.reason
    start(version)
    promote_version(version)
    assert CanaryEnd.objects.latest("pk").outcome == CanaryEnd.Outcome.COMPLETED
    version.refresh_from_db()
    assert (version.alias, version.share) == (Alias.CHAMPION, None)
    assert ModelVersion.objects.filter(alias=Alias.CHAMPION).count() == 1


def test_start_canary_rejects_invalid_requests(champion: ModelVersion) -> None:
    version = register_copy(champion)
    for share in (0, -1, 0.51, float("nan")):
        with pytest.raises(RegistryError, match="share"):
            start(version, share)
    with pytest.raises(RegistryError, match="reason"):
        actions.start_canary(version=version, share=0.1, reason=" ", actor=SystemActor("ann"))
    with pytest.raises(RegistryError, match="other than itself"):
        start(champion)
    with pytest.raises(RegistryError, match="No canary is running"):
        end()
    ben = User.objects.create_user("ben")
    with pytest.raises(PermissionDenied):
        actions.start_canary(version=version, share=0.1, reason="r", actor=ben)
    start(version)
    with pytest.raises(RegistryError, match="is running: end it first"):
        start(register_copy(champion))
    with pytest.raises(PermissionDenied):
        actions.end_canary(outcome=CanaryEnd.Outcome.WITHDRAWN, reason="r", actor=ben)


def test_database_rejects_second_canary_and_invalid_share(champion: ModelVersion) -> None:
    version = register_copy(champion)
    for change in ({"alias": Alias.CANARY}, {"share": 0.1}, {"alias": Alias.CANARY, "share": 0.6}):
        with pytest.raises(IntegrityError), transaction.atomic():
            ModelVersion.objects.filter(pk=version.pk).update(**change)
    start(version)
    with pytest.raises(IntegrityError), transaction.atomic():
        ModelVersion.objects.filter(pk=register_copy(champion).pk).update(alias=Alias.CANARY, share=0.1)
