"""The gates, and promotions that they allow or prevent."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.accounts.models import User
from apps.classifier.artifact import ArtifactError
from apps.classifier.bias_audit import AUDITED_LANGUAGES
from apps.classifier.labels import LABELS
from apps.core.permissions import SYSTEM
from apps.predictions import actions as predictions
from apps.predictions.models import Prediction
from apps.registry import actions as registry
from apps.registry import tracking
from apps.registry.exceptions import GateError, RegistryError
from apps.registry.gates import Gate, describe
from apps.registry.models import EvaluationArtifact, ModelArtifact, ModelVersion, Promotion
from apps.training import actions, datasets, gates
from apps.training.models import Dataset, GateReport
from toxicmod.testing.factories import measure_and_promote

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "sync", lambda: None)


def measure(version: ModelVersion) -> list[Gate]:
    """Measure the gates of a version."""
    return actions.measure_gates(version=version).gates


def test_group_gates_base_model_passes(champion: ModelVersion) -> None:
    bounds = {
        gate["name"]: gate["passed"]
        for gate in gates._group_gates(gates.load_evaluation_model(champion), None)
    }
    assert len(bounds) == 4 * len(AUDITED_LANGUAGES)
    assert all(bounds.values()), bounds


def test_promote_model_equal_version(equal_version: ModelVersion, dataset: Dataset, capsys: Any) -> None:
    call_command("promote_model", str(equal_version), reason="as good")
    assert f"{equal_version} is the champion, in place of" in capsys.readouterr().out
    promotion = Promotion.objects.first()
    assert promotion is not None
    assert list(dict.fromkeys(gate["name"].partition(" (")[0] for gate in promotion.gates)) == [
        "mean ROC-AUC",
        "ROC-AUC above the champion's",
        "PR-AUC above the champion's",
        "calibration error",
        "worst group's BPSN AUC, toxic",
        "worst group's BNSP AUC, toxic",
        "worst group's BPSN AUC, toxic or identity_hate",
        "worst group's BNSP AUC, toxic or identity_hate",
        "share of everyday sentences flagged",
        "ROC-AUC lost to obfuscated spelling",
        "median µs per comment",
        "flip rate: no traffic last week",
    ]
    assert all(gate["interval"] == [0, 0] for gate in promotion.gates if "champion's" in gate["name"])
    assert not promotion.forced


def test_label_gates_loss_beyond_bound_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large PR-AUC loss fails even if its interval, on few rows, reaches the bound."""
    rows = datasets.Rows(texts=[""] * 4, labels=np.zeros((4, 6), np.uint8), weights=None)
    intervals = {
        "threat": {"roc_auc": (-0.001, -0.003, 0.001), "pr_auc": (-0.1384, -0.30, 0.02)},
        "insult": {"roc_auc": (-0.005, -0.009, 0.002), "pr_auc": (-0.02, -0.025, -0.015)},
    }
    monkeypatch.setattr(gates, "paired_bootstrap", lambda *args, **options: intervals)
    differences = list(gates._label_gates(rows, np.zeros((4, 6)), np.zeros((4, 6))))
    assert [gate["passed"] for gate in differences] == [True, False, True, False]
    assert "must be at least -0.0500" in describe(differences[1])
    assert "measured -0.1384 (interval -0.3000 to 0.0200): failed" in describe(differences[1])
    for gate in differences:
        assert gate["passed"] == (gate["figure"] >= gate["bound"])


@pytest.mark.parametrize(
    ("candidate", "champions", "passed"),
    [(9_000, 5_000, True), (11_000, 5_000, False), (29_000, 20_000, True), (31_000, 20_000, False)],
)
def test_latency_gate_allows_for_a_slow_machine(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch, candidate: int, champions: int, passed: bool
) -> None:
    served = champion.load_scorer()
    monkeypatch.setattr(
        gates, "measure_latency_us", lambda scorer, texts: candidate if scorer is served else champions
    )
    assert gates._latency_gate(served, champion, ["a"])["passed"] is passed
    assert gates._latency_gate(served, None, ["a"])["passed"] is (candidate < 10_000)


def test_promote_model_worse_version_needs_force(
    reversed_version: ModelVersion, champion: ModelVersion, dataset: Dataset, capsys: Any
) -> None:
    with pytest.raises(
        CommandError, match=r"fails its gates: mean ROC-AUC must be at least 0\.\d+; measured 0\.\d+: failed"
    ):
        call_command("promote_model", "challenger", reason="hope")
    champion.refresh_from_db()
    assert champion.alias == "champion"
    with pytest.raises(CommandError, match="Give a reason"):
        call_command("promote_model", "challenger", reason=" ", force=True)
    call_command("promote_model", "challenger", reason="a drill", force=True)
    assert "is the champion, in place of v1, by force" in capsys.readouterr().out
    promotion = Promotion.objects.first()
    assert promotion is not None
    assert (promotion.version, promotion.forced, promotion.reason) == (reversed_version, True, "a drill")


def test_run_gates_reversed_version_fails(
    reversed_version: ModelVersion, champion: ModelVersion, dataset: Dataset
) -> None:
    texts = ["you are an idiot", "thanks, that was kind of you"]
    predictions.score(texts=texts, source=Prediction.Source.API)
    failed = {gate["name"].partition(" (")[0] for gate in measure(reversed_version) if not gate["passed"]}
    assert failed >= {
        "mean ROC-AUC",
        "ROC-AUC above the champion's",
        "PR-AUC above the champion's",
        "calibration error",
        "worst group's BPSN AUC, toxic",
        "worst group's BNSP AUC, toxic",
        "flip rate on last week's traffic",
    }
    assert all(gate["passed"] for gate in measure(champion) if gate["name"].startswith("flip rate"))


def test_promote_force_requires_lead(
    reversed_version: ModelVersion, dataset: Dataset, person: Callable[..., User], ann: User
) -> None:
    engineer, lead = person("eve", "engineer"), person("lea", "lead")
    for user in (ann, engineer):
        with pytest.raises(PermissionDenied):
            measure_and_promote(version=reversed_version, reason="r", actor=user, force=True)
    with pytest.raises(RegistryError, match="fails its gates"):
        measure_and_promote(version=reversed_version, reason="r", actor=lead)
    made = measure_and_promote(version=reversed_version, reason="a drill", actor=lead, force=True)
    assert made.forced
    with pytest.raises(PermissionDenied):
        registry.rollback(reason="r", actor=ann)
    assert registry.rollback(reason="worse", actor=engineer).replaced == reversed_version


def test_run_gates_uses_evaluation_model(
    equal_version: ModelVersion, reversed_version: ModelVersion, dataset: Dataset
) -> None:
    bad = reversed_version.modelartifact
    EvaluationArtifact.objects.create(version=equal_version, manifest=bad.manifest, weights=bad.weights)
    assert not measure(equal_version)[0]["passed"]


def test_promote_without_rows_needs_force(equal_version: ModelVersion, dataset: Dataset) -> None:
    dataset.path.unlink()
    with pytest.raises(RegistryError, match="import a data set"):
        measure_and_promote(version=equal_version, reason="r", actor=SYSTEM)
    assert measure_and_promote(version=equal_version, reason="r", actor=SYSTEM, force=True).forced


def test_promote_damaged_artifact(
    equal_version: ModelVersion, champion: ModelVersion, dataset: Dataset
) -> None:
    ModelArtifact.objects.filter(version=equal_version).update(weights=b"damaged")
    with pytest.raises(ArtifactError):
        measure_and_promote(version=equal_version, reason="r", actor=SYSTEM, force=True)
    champion.refresh_from_db()
    assert champion.alias == "champion"


def test_evaluate_model(champion: ModelVersion, dataset: Dataset, capsys: Any) -> None:
    call_command("evaluate_model", "champion", dataset="made-up")
    out = capsys.readouterr().out
    assert "held-out rows of made-up v1" in out
    assert all(label in out for label in (*LABELS, "mean", "roc_auc"))
    call_command("evaluate_model", "champion", dataset="made-up:1", all_rows=True)
    assert "on 400 rows of made-up v1" in capsys.readouterr().out
    with pytest.raises(CommandError, match="There is no data set none"):
        call_command("evaluate_model", "champion", dataset="none")


def test_current_report_is_of_this_champion_data_set_and_day(
    equal_version: ModelVersion, champion: ModelVersion, dataset: Dataset
) -> None:
    with pytest.raises(GateError, match="the gates are measured"):
        actions.promote(version=equal_version, reason="r", actor=SYSTEM)
    measure(equal_version)
    assert GateReport.objects.current(equal_version)
    assert GateReport.objects.current(champion) is None
    GateReport.objects.all()._raw_delete("default")
    old = timezone.now() - timedelta(days=2)
    for change in ({"champion": equal_version}, {"dataset": None}, {"created_at": old}):
        facts = {"version": equal_version, "champion": champion, "dataset": dataset, "gates": []} | change
        GateReport.objects.create(**facts)
        assert GateReport.objects.current(equal_version) is None
