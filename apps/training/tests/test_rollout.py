"""A canary is watched: rolled back where it leaves a band, made champion once it has served enough."""

from typing import Any

import pytest
from django.core.management import call_command

from apps.core.permissions import SYSTEM
from apps.predictions.models import Prediction
from apps.registry import actions as registry
from apps.registry import tracking
from apps.registry.models import Alias, Canary, CanaryEnd, CanaryFailure, ModelVersion, Promotion
from apps.training import rollout, tasks
from apps.training.models import Dataset
from toxicmod.testing.factories import register_copy

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def canary(champion: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> Canary:
    """A canary that has served nothing yet; MLflow hears nothing."""
    monkeypatch.setattr(tasks, "enqueue", lambda *args, **options: None)
    return registry.start_canary(version=register_copy(champion), share=0.5, reason="a trial", actor=SYSTEM)


def traffic(version: ModelVersion, count: int, flagged: float = 0.1, latency: int = 60) -> None:
    """Store predictions of a version, a share of which are flagged."""
    Prediction.objects.bulk_create(
        Prediction(
            source=Prediction.Source.API,
            text_hash="0" * 64,
            label_mask=int(row < count * flagged),
            model_version=version,
            latency_us=latency + row % 7,
            **dict.fromkeys(("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"), 0.1),
        )
        for row in range(count)
    )


def watched() -> CanaryEnd | None:
    tasks.watch_canary()
    return CanaryEnd.objects.first()


def test_it_becomes_champion_once_it_has_served_enough(canary: Canary, champion: ModelVersion) -> None:
    assert watched() is None
    traffic(canary.champion, 1_500)
    traffic(canary.version, 999)
    assert watched() is None
    traffic(canary.version, 1)
    ended = watched()
    assert ended is not None
    assert (ended.outcome, ended.actor) == (CanaryEnd.Outcome.COMPLETED, rollout.CANARY_WATCH.name)
    assert [band["name"] for band in ended.guardrails] == [
        "error rate",
        "latency, times the champion's",
        "flag rate, away from the champion's",
    ]
    assert all(band["passed"] for band in ended.guardrails)
    promotion = Promotion.objects.first()
    assert promotion is not None
    assert (promotion.version, promotion.replaced) == (canary.version, champion)
    assert promotion.reason == "Its canary kept within the bands for 1000 comments. a trial"
    tasks.watch_canary()
    assert CanaryEnd.objects.count() == 1


def test_forced_canary_waits_for_a_person(champion: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "enqueue", lambda *args, **options: None)
    gates = [{"name": "mean ROC-AUC", "figure": 0.5, "bound": 0.9, "passed": False}]
    canary = registry.start_canary(
        version=register_copy(champion), share=0.5, reason="a trial", actor=SYSTEM, gates=gates, forced=True
    )
    traffic(canary.champion, 1_500)
    traffic(canary.version, 1_000)
    ended = watched()
    assert ended is not None
    assert ended.outcome == CanaryEnd.Outcome.FINISHED
    assert "a person decides" in ended.reason
    champion.refresh_from_db()
    canary.version.refresh_from_db()
    assert (champion.alias, canary.version.alias) == (Alias.CHAMPION, Alias.CHALLENGER)
    assert not Promotion.objects.filter(version=canary.version).exists()
    assert watched() == ended
    # A person may promote it, by force again, because its gates failed.
    with pytest.raises(rollout.GateError):
        rollout.promote(version=canary.version, reason="r", actor=SYSTEM)
    assert rollout.promote(version=canary.version, reason="r", actor=SYSTEM, force=True).forced


@pytest.mark.parametrize(
    ("band", "served"),
    [
        ("flag rate", {"flagged": 0.4}),
        ("flag rate", {"flagged": 0.0}),
        ("latency", {"latency": 200}),
        ("error rate", {}),
    ],
)
def test_it_is_rolled_back_where_it_leaves_a_band(
    canary: Canary, champion: ModelVersion, band: str, served: dict[str, Any]
) -> None:
    traffic(canary.champion, 2_000)
    traffic(canary.version, 200, **served)
    if not served:
        for _ in range(3):
            CanaryFailure.objects.create(version=canary.version, error="ValueError")
    ended = watched()
    assert ended is not None
    assert ended.outcome == CanaryEnd.Outcome.ROLLED_BACK
    assert [each["name"].startswith(band) for each in ended.guardrails if not each["passed"]] == [True]
    assert ended.reason.startswith(f"It left its band: {band}")
    canary.version.refresh_from_db()
    champion.refresh_from_db()
    assert (canary.version.alias, champion.alias) == (Alias.CHALLENGER, Alias.CHAMPION)
    assert not Promotion.objects.filter(version=canary.version).exists()


def test_chance_alone_leaves_no_band(canary: Canary) -> None:
    traffic(canary.champion, 1_000, flagged=0.10)
    traffic(canary.version, 60, flagged=0.2)
    assert watched() is None
    traffic(canary.version, 3, latency=5_000)
    assert watched() is None


def test_the_command_starts_a_canary(
    equal_version: ModelVersion,
    dataset: Dataset,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracking, "sync", lambda: None)
    call_command("promote_model", str(equal_version), reason="try", canary=0.05)
    assert f"{equal_version} serves 5.0% of the requests." in capsys.readouterr().out
    canary = Canary.objects.running()
    assert canary is not None
    assert (canary.version, canary.share, canary.forced) == (equal_version, 0.05, False)
    assert canary.gates


def test_a_version_that_fails_its_gates_becomes_no_canary(champion: ModelVersion, dataset: Dataset) -> None:
    version = register_copy(champion)
    with pytest.raises(rollout.GateError):
        rollout.start_canary(version=version, share=0.05, reason="r", actor=SYSTEM)
    assert rollout.start_canary(version=version, share=0.05, reason="r", actor=SYSTEM, force=True).forced
