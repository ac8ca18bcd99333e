"""Canaries: rolled back if they violate a guardrail, promoted after enough comments."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command

from apps.core.permissions import SYSTEM
from apps.predictions.models import Prediction
from apps.registry import actions as registry
from apps.registry import tracking
from apps.registry.exceptions import GateError, RegistryError
from apps.registry.models import Alias, Canary, CanaryEnd, CanaryFailure, ModelVersion, Promotion
from apps.training import actions, tasks
from apps.training.actions import rollout
from apps.training.actions.rollout import CANARY_CHECK
from apps.training.models import Dataset
from toxicmod.testing.factories import promote_version, register_copy

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def canary(champion: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> Canary:
    """A canary that has served no request yet; nothing is recorded in MLflow."""
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


def check() -> CanaryEnd | None:
    tasks.check_canary()
    return CanaryEnd.objects.first()


def test_check_canary_promotes_after_enough_comments(canary: Canary, champion: ModelVersion) -> None:
    assert check() is None
    traffic(canary.champion, 1_500)
    traffic(canary.version, 999)
    assert check() is None
    traffic(canary.version, 1)
    ended = check()
    assert ended is not None
    assert (ended.outcome, ended.actor) == (CanaryEnd.Outcome.COMPLETED, CANARY_CHECK.name)
    assert [guardrail["name"] for guardrail in ended.guardrails] == [
        "error rate",
        "latency, ratio to the champion's",
        "flag rate, difference from the champion's",
    ]
    assert all(guardrail["passed"] for guardrail in ended.guardrails)
    promotion = Promotion.objects.first()
    assert promotion is not None
    assert (promotion.version, promotion.replaced) == (canary.version, champion)
    assert promotion.reason == "Its canary kept its guardrails for 1000 comments. a trial"
    tasks.check_canary()
    assert CanaryEnd.objects.count() == 1


def test_check_canary_ends_forced_canary_without_promotion(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "enqueue", lambda *args, **options: None)
    gates = [{"name": "mean ROC-AUC", "figure": 0.5, "bound": 0.9, "passed": False}]
    canary = registry.start_canary(
        version=register_copy(champion), share=0.5, reason="a trial", actor=SYSTEM, gates=gates, force=True
    )
    traffic(canary.champion, 1_500)
    traffic(canary.version, 1_000)
    ended = check()
    assert ended is not None
    assert ended.outcome == CanaryEnd.Outcome.FINISHED
    assert "a person decides" in ended.reason
    champion.refresh_from_db()
    canary.version.refresh_from_db()
    assert (champion.alias, canary.version.alias) == (Alias.CHAMPION, Alias.CHALLENGER)
    assert not Promotion.objects.filter(version=canary.version).exists()
    assert check() == ended
    # A person may promote it, by force again, because its gates failed.
    with pytest.raises(GateError):
        actions.promote(version=canary.version, reason="r", actor=SYSTEM)
    assert actions.promote(version=canary.version, reason="r", actor=SYSTEM, force=True).forced


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("flag rate", {"flagged": 0.4}),
        ("flag rate", {"flagged": 0.0}),
        ("latency", {"latency": 200}),
        ("error rate", {}),
    ],
)
def test_check_canary_rolls_back_violated_guardrail(
    canary: Canary, champion: ModelVersion, name: str, served: dict[str, Any]
) -> None:
    traffic(canary.champion, 2_000)
    traffic(canary.version, 200, **served)
    if not served:
        for _ in range(3):
            CanaryFailure.objects.create(version=canary.version, error="ValueError")
    ended = check()
    assert ended is not None
    assert ended.outcome == CanaryEnd.Outcome.ROLLED_BACK
    assert [
        guardrail["name"].startswith(name) for guardrail in ended.guardrails if not guardrail["passed"]
    ] == [True]
    assert ended.reason.startswith(f"It violated a guardrail: {name}")
    canary.version.refresh_from_db()
    champion.refresh_from_db()
    assert (canary.version.alias, champion.alias) == (Alias.CHALLENGER, Alias.CHAMPION)
    assert not Promotion.objects.filter(version=canary.version).exists()


def test_check_canary_tolerates_chance(canary: Canary) -> None:
    traffic(canary.champion, 1_000, flagged=0.10)
    traffic(canary.version, 60, flagged=0.2)
    assert check() is None
    traffic(canary.version, 3, latency=5_000)
    assert check() is None


def test_promote_model_starts_canary(
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


def test_start_canary_failed_gates(champion: ModelVersion, dataset: Dataset) -> None:
    version = register_copy(champion)
    with pytest.raises(GateError):
        actions.start_canary(version=version, share=0.05, reason="r", actor=SYSTEM)
    assert actions.start_canary(version=version, share=0.05, reason="r", actor=SYSTEM, force=True).forced


def end_while_measuring(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    measure = rollout.measure_guardrails

    def measure_slowly(running: Canary) -> Any:
        result = measure(running)
        registry.end_canary(actor=SYSTEM, outcome=CanaryEnd.Outcome.WITHDRAWN, reason="a person stops it")
        then()
        return result

    monkeypatch.setattr(rollout, "measure_guardrails", measure_slowly)


def test_check_canary_does_not_promote_canary_that_was_stopped_meanwhile(
    canary: Canary, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic(canary.champion, 1_500)
    traffic(canary.version, 1_000)
    end_while_measuring(monkeypatch, lambda: None)
    tasks.check_canary()
    champion.refresh_from_db()
    assert champion.alias == Alias.CHAMPION


def test_check_canary_does_not_end_another_canary(
    canary: Canary, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic(canary.champion, 1_500)
    traffic(canary.version, 500, flagged=0.9)
    other = register_copy(champion, "other")
    end_while_measuring(
        monkeypatch,
        lambda: registry.start_canary(version=other, share=0.5, reason="next", actor=SYSTEM),
    )
    tasks.check_canary()
    running = Canary.objects.running()
    assert running is not None
    assert running.version == other


def test_version_to_roll_back_to_is_no_canary(champion: ModelVersion) -> None:
    promote_version(register_copy(champion))
    champion.refresh_from_db()
    with pytest.raises(RegistryError, match="roll back to it instead"):
        registry.start_canary(version=champion, share=0.1, reason="compare", actor=SYSTEM)
    registry.rollback(actor=SYSTEM, reason="the new one is bad")
    champion.refresh_from_db()
    assert champion.alias == Alias.CHAMPION
