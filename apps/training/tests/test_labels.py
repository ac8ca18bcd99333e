"""Labels from decisions and feedback become rows of data sets."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from apps.accounts.models import APIKey, User
from apps.classifier.labels import LABELS
from apps.moderation import actions as moderation
from apps.moderation.models import Decision, Policy, QueueItem
from apps.moderation.statistics import Agreement
from apps.predictions import actions as predictions
from apps.predictions.models import Feedback, Prediction, unpack_labels
from apps.registry.models import ModelVersion
from apps.training import actions, datasets, labels
from apps.training.exceptions import SourceError, TrainingError
from apps.training.models import Dataset, TrainingRun
from toxicmod.testing.factories import create_queue_item, csv_bytes, labeled_rows

pytestmark = [pytest.mark.django_db, pytest.mark.database]

TOXIC, INSULT, THREAT = (1, 0, 0, 0, 0, 0), (0, 0, 0, 0, 1, 0), (0, 0, 0, 1, 0, 0)
NONE = (0,) * 6


def both(*labels: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(flags) for flags in zip(*labels, strict=True))


def built(**options: Any) -> dict[str, tuple[int, ...]]:
    """Build a data set and return its rows: labels by text."""
    dataset = actions.build_dataset(name="ours", **options)[0]
    rows = datasets.read(dataset.path)
    assert len(set(rows.texts)) == len(rows.texts) == dataset.rows
    return dict(zip(rows.texts, map(tuple, rows.labels.tolist()), strict=True))


def scored(text: str, **options: Any) -> Prediction:
    return predictions.score(texts=[text], source=Prediction.Source.API, **options)[0][0]


def decide(
    item: QueueItem, user: User, action: Decision.Action, labels: list[str] | None = None
) -> moderation.DecisionResult:
    claimed = moderation.claim(item_id=item.pk, user=user)
    rule = item.policy.rules.filter(label="insult").get() if action == Decision.Action.REJECT else None
    return moderation.decide(
        item_id=item.pk, version=claimed.version, user=user, action=action, labels=labels, rule=rule
    )


def test_read_comments_suggested_score(
    champion: ModelVersion, client: Client, api_key: tuple[APIKey, str]
) -> None:
    for text, value in (("what a lovely day it is", 0.9), ("you are an idiot and a moron", 0.1)):
        request = {
            "comment": {"text": text},
            "attributeScores": {"TOXICITY": {"summaryScore": {"value": value}}},
            "languages": ["en"],
        }
        path = f"/v1alpha1/comments:suggestscore?key={api_key[1]}"
        assert client.post(path, json.dumps(request), content_type="application/json").status_code == 200
    rows = built()
    assert rows == {"what a lovely day it is": TOXIC, "you are an idiot and a moron": NONE}
    assert Dataset.objects.get().source == "perspective: 2"


def test_resolve_labels_feedback(model: ModelVersion) -> None:
    cases: list[tuple[str, dict[str, Any], tuple[int, ...] | None]] = [
        ("insult=0.9 right", {"is_right": True}, INSULT),
        ("insult=0.9 wrong", {"is_right": False}, None),
        ("insult=0.9 labels", {"is_right": False, "true_labels": ["threat"]}, THREAT),
        ("insult=0.9 clean", {"is_right": False, "true_labels": []}, NONE),
        (
            "insult=0.9 more",
            {"is_right": False, "true_labels": ["toxic"], "known_labels": ["toxic"]},
            both(TOXIC, INSULT),
        ),
        (
            "insult=0.9 all false",
            {"is_right": False, "true_labels": [], "known_labels": ["toxic"]},
            NONE,
        ),
        (
            "insult=0.9 one false",
            {"is_right": False, "true_labels": [], "known_labels": ["insult"]},
            NONE,
        ),
        (
            "insult=0.9 nothing",
            {"is_right": True, "true_labels": [], "known_labels": []},
            None,
        ),
    ]
    for text, feedback, _ in cases:
        predictions.give_feedback(prediction=scored(text), **feedback)
    scored("insult=0.9 nobody spoke of it")
    assert built() == {text: labels for text, _, labels in cases if labels is not None}
    dataset = Dataset.objects.get()
    assert dataset.source == "api: 6"
    assert dataset.report == {"feedback “wrong” without labels": {"rows": 1, "lines": []}}


def test_resolve_labels_decision(model: ModelVersion, policy: Policy, ann: User) -> None:
    done = [
        ("insult=0.7 approved", Decision.Action.APPROVE, None, NONE),
        ("insult=0.7 rejected", Decision.Action.REJECT, None, None),
        ("insult=0.7 rejected, none applies", Decision.Action.REJECT, [], NONE),
        ("insult=0.7 approved, labelled", Decision.Action.APPROVE, ["toxic"], TOXIC),
        ("insult=0.7 rejected, labelled", Decision.Action.REJECT, ["threat"], THREAT),
    ]
    for text, action, ticked, _ in done:
        decide(create_queue_item(text), ann, action, ticked)
    decide(create_queue_item("insult=0.7 escalated"), ann, Decision.Action.ESCALATE)
    assert moderation.moderate(text="insult=0.99 threat=0.99 toxic=0.99 automatic").item is None
    assert moderation.moderate(text="automatic too").item is None
    assert Decision.objects.filter(automatic=True).count() == 2
    assert built() == {text: labels for text, _, _, labels in done if labels is not None}
    left_out = {"rejected without a label": {"rows": 1, "lines": []}}
    assert Dataset.objects.get().report == left_out


def test_resolve_labels_rejection_without_labels(model: ModelVersion, policy: Policy, ann: User) -> None:
    start = timezone.now() - timedelta(seconds=1)
    spam = policy.rules.get(label="")
    texts = [f"insult=0.7 buy our rings, offer {number} {'x' * number}" for number in range(4)]
    items = [create_queue_item(text) for text in texts]
    claimed = moderation.claim(item_id=items[0].pk, user=ann)
    reject = Decision.Action.REJECT
    moderation.decide(item_id=claimed.pk, version=claimed.version, user=ann, action=reject, rule=spam)
    similar = [create_queue_item("insult=0.7 the very same words") for _ in range(2)]
    claimed = moderation.claim(item_id=similar[0].pk, user=ann)
    moderation.decide_cluster(item_id=claimed.pk, version=claimed.version, user=ann, action=reject, rule=spam)
    predictions.give_feedback(prediction=items[0].prediction, is_right=True)
    decide(create_queue_item("insult=0.7 labelled"), ann, reject, ["insult"])
    assert built() == {"insult=0.7 labelled": INSULT}
    # Feedback does not replace the decision of the moderator who rejected without a label.
    assert labels.label_events(start).count() == 5
    assert labels.label_events(start, labeled=True).count() == 2


def test_label_events_excludes_examples(model: ModelVersion, policy: Policy, ann: User) -> None:
    item = create_queue_item("insult=0.7 an example", example=True)
    decide(item, ann, Decision.Action.REJECT)
    predictions.give_feedback(prediction=item.prediction, is_right=True)
    with pytest.raises(TrainingError, match="no labels to learn from"):
        built()


def test_label_events_excludes_undone_decisions(model: ModelVersion, policy: Policy, ann: User) -> None:
    decided = decide(create_queue_item("insult=0.7 undone"), ann, Decision.Action.REJECT, ["insult"])
    decide(create_queue_item("insult=0.7 kept"), ann, Decision.Action.REJECT, ["insult"])
    moderation.undo(decision_id=decided.decision.pk, user=ann)
    assert set(built()) == {"insult=0.7 kept"}


def test_latest_per_text_prefers_moderator_then_newest(
    model: ModelVersion, policy: Policy, ann: User, ben: User
) -> None:
    text = "insult=0.7 disputed"
    predictions.give_feedback(prediction=scored(text), is_right=False, true_labels=["threat"])
    predictions.give_feedback(prediction=scored(text), is_right=True)
    assert built() == {text: INSULT}
    decide(create_queue_item(text), ann, Decision.Action.APPROVE)
    predictions.give_feedback(prediction=scored(text), is_right=True)
    assert built() == {text: NONE}
    decide(create_queue_item(text), ben, Decision.Action.REJECT, ["toxic"])
    assert built() == {text: TOXIC}


def test_read_comments_feedback_has_half_weight(
    model: ModelVersion, policy: Policy, ann: User, dataset: Dataset
) -> None:
    decide(create_queue_item("insult=0.6 one"), ann, Decision.Action.REJECT, ["insult"])
    predictions.give_feedback(prediction=scored("insult=0.9 two"), is_right=True)
    (suggested,), _ = predictions.score(texts=["insult=0.9 three"], source=Prediction.Source.PERSPECTIVE)
    predictions.give_feedback(prediction=suggested, is_right=True)
    ours = actions.build_dataset(name="ours", base=dataset)[0]
    rows = datasets.read(ours.path)
    assert rows.weights is not None
    weights = dict(zip(rows.texts, rows.weights.tolist(), strict=True))
    added = {text: weights.pop(text) for text in ("insult=0.6 one", "insult=0.9 two", "insult=0.9 three")}
    assert list(added.values()) == [1, 0.5, 1]
    assert set(weights.values()) == {1}


def test_read_comments_trusts_labels_that_moderators_agree_on(
    model: ModelVersion, policy: Policy, ann: User, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    kappas = {"toxic": (0.8, 40), "insult": (0.04, 40), "threat": (0.3, 29), "obscene": (None, 40)}
    agreements = ((label, *kappas.get(label, (1.0, 40))) for label in LABELS)
    by_label = {label: Agreement(kappa, 0, count) for label, kappa, count in agreements}
    monkeypatch.setattr(labels, "agreement", lambda: (by_label, {}))
    decided = {"one": ["insult", "toxic"], "two": [], "three": ["threat"], "four": ["toxic"]}
    for text, ticked in decided.items():
        action = Decision.Action.REJECT if ticked else Decision.Action.APPROVE
        decide(create_queue_item(f"insult=0.6 {text}"), ann, action, ticked)
    rows = datasets.read(actions.build_dataset(name="ours", base=dataset)[0].path)
    assert rows.weights is not None
    weights = dict(zip(rows.texts, rows.weights.tolist(), strict=True))
    assert [weights[f"insult=0.6 {text}"] for text in decided] == [0.1, 0.8, 1, 0.8]


def test_label_events_excludes_do_not_store(model: ModelVersion) -> None:
    predictions.give_feedback(prediction=scored("insult=0.9 secret", do_not_store=True), is_right=True)
    predictions.give_feedback(prediction=scored("insult=0.9 told"), is_right=True)
    assert set(built()) == {"insult=0.9 told"}
    assert b"secret" not in Dataset.objects.get().path.read_bytes()


def test_label_events_since(model: ModelVersion) -> None:
    for text, days in (("insult=0.9 old", 9), ("insult=0.9 recent", 1)):
        at = timezone.now() - timedelta(days=days)
        Feedback.objects.create(prediction=scored(text), is_right=True, created_at=at)
    assert set(built(since=timezone.now() - timedelta(days=3))) == {"insult=0.9 recent"}
    assert len(built()) == 2


def test_label_events_newest_feedback_of_a_source_counts(model: ModelVersion) -> None:
    prediction = scored("insult=0.9 you")
    predictions.give_feedback(prediction=prediction, is_right=True)
    for label in ("insult", "threat", "threat"):
        predictions.give_feedback(prediction=prediction, is_right=False, true_labels=[label])
    assert [unpack_labels(event["stated_mask"])["threat"] for event in labels.label_events(None)] == [True]


def test_build_dataset_same_records_give_same_data_set(model: ModelVersion, dataset: Dataset) -> None:
    for number in range(5):
        predictions.give_feedback(prediction=scored(f"insult=0.9 number {number}"), is_right=True)
    first, is_new = actions.build_dataset(name="ours", base=dataset)
    again, is_new_again = actions.build_dataset(name="ours", base=dataset)
    elsewhere, _ = actions.build_dataset(name="others", base=dataset)
    assert (is_new, is_new_again) == (True, False)
    assert first == again
    assert first.sha256 == elsewhere.sha256
    predictions.give_feedback(prediction=scored("insult=0.9 one more"), is_right=True)
    more, _ = actions.build_dataset(name="ours", base=dataset)
    assert (more.version, more.rows) == (2, first.rows + 1)
    assert not list(first.path.parent.glob("*.tmp"))


def test_build_dataset_keeps_held_out_rows_of_base(model: ModelVersion, dataset: Dataset) -> None:
    base = datasets.read(dataset.path)
    training, held_out = base.split()
    held_out_text, training_text = base.texts[held_out[0]], base.texts[training[0]]
    for text in (held_out_text, held_out_text.upper() + "!", training_text.upper(), "insult=0.9 of the site"):
        predictions.give_feedback(prediction=scored(text), is_right=False, true_labels=["threat"])
    ours = actions.build_dataset(name="ours", base=dataset)[0]
    rows = datasets.read(ours.path, clean_weight=ours.clean_weight)
    held = rows.take(rows.split()[1])
    assert held.texts == [base.texts[row] for row in held_out]
    assert (held.labels == base.labels[held_out]).all()
    assert held.weights is not None
    labelled = held.labels.any(axis=1)
    share = held.weights[labelled].sum() / held.weights.sum()
    assert share == pytest.approx(dataset.labelled / dataset.rows)
    assert set(rows.texts) - set(base.texts) == {training_text.upper(), "insult=0.9 of the site"}
    assert set(base.texts) - set(rows.texts) == {training_text}
    assert {kind: left["rows"] for kind, left in ours.report.items()} == {
        "held out from made-up v1 for evaluation": 2,
        "in made-up v1, replaced by a newer label": 1,
    }
    assert ours.source == "api: 2, made-up v1: 399"


@pytest.mark.filterwarnings("ignore")
def test_build_dataset_and_train_model(
    model: ModelVersion, tmp_path: Path, mlflow_outage: None, capsys: Any
) -> None:
    path = tmp_path / "small.csv"
    path.write_bytes(csv_bytes(labeled_rows(200, share=0.05)))
    call_command("import_dataset", str(path), name="small", licence="CC0")
    predictions.give_feedback(prediction=scored("insult=0.9 of the site"), is_right=True)
    predictions.give_feedback(prediction=scored("insult=0.9 wrong"), is_right=False)
    call_command("build_dataset", name="ours", base="small")
    output = capsys.readouterr()
    assert "Built ours v1: 201 rows" in output.out
    assert "Rows by origin: api: 1, small v1: 200" in output.out
    assert "Left out: feedback “wrong” without labels: 1\n" in output.err
    call_command("build_dataset", name="ours", base="small")
    assert "has the same rows" in capsys.readouterr().out
    call_command("train_model", dataset="ours")
    run = TrainingRun.objects.get()
    assert run.status == TrainingRun.Status.SUCCEEDED
    assert "CC0; added: comments written and moderated on this site" in run.version.card


def test_build_dataset_errors(model: ModelVersion, dataset: Dataset) -> None:
    with pytest.raises(
        CommandError, match=r"no labels to learn from \(no stored comment has a label\): .*send feedback"
    ):
        call_command("build_dataset", "--name", "ours", "--since", "2026-01-31", "--base", "made-up")
    with pytest.raises(CommandError, match=r"2026-13-01 is not a day: write it as 2026-01-31"):
        call_command("build_dataset", "--name", "ours", "--since", "2026-13-01")
    with pytest.raises(CommandError, match=r"no data set none \(there are: made-up v1\)"):
        call_command("build_dataset", name="ours", base="none")
    predictions.give_feedback(prediction=scored("insult=0.9 wrong"), is_right=False)
    with pytest.raises(TrainingError, match=r"\(feedback “wrong” without labels: 1\)"):
        built()
    predictions.give_feedback(prediction=scored("insult=0.9 right"), is_right=True)
    with pytest.raises(TrainingError, match="letters"):
        actions.build_dataset(name="no/path")
    ours = actions.build_dataset(name="ours")[0]
    with pytest.raises(TrainingError, match="ours v1 was built from decisions"):
        actions.build_dataset(name="ours", base=ours)
    dataset.path.unlink()
    with pytest.raises(SourceError, match="is missing"):
        actions.build_dataset(name="ours", base=dataset)
