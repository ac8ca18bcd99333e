"""Scoring stores predictions; feedback refers to them; both are append-only."""

import hmac
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from apps.classifier.labels import LABELS
from apps.core.models import AppendOnlyError
from apps.predictions.actions import give_feedback, score, text_hash
from apps.predictions.models import Feedback, Prediction, PredictionRow, pack_labels, unpack_labels
from apps.registry import serving
from apps.registry.models import ModelVersion

pytestmark = pytest.mark.database


def _score(*texts: str) -> list[Prediction]:
    return score(texts=texts, source=Prediction.Source.API)[0]


@given(st.lists(st.booleans(), min_size=6, max_size=6))
def test_unpack_labels_inverts_pack_labels(flags: list[bool]) -> None:
    assert unpack_labels(pack_labels(flags)) == dict(zip(LABELS, flags, strict=True))


@pytest.mark.django_db
def test_score_of_batch_equals_single_scores() -> None:
    texts = ["You stupid idiot", "A fine day", "ok", "x" * 20_000]
    batch = _score(*texts)
    for text, prediction in zip(texts, batch, strict=True):
        assert _score(text)[0].probabilities == pytest.approx(prediction.probabilities, abs=1e-9)
        assert Prediction.objects.get(pk=prediction.pk).text == text


@pytest.mark.django_db
def test_from_row_equals_stored_instance() -> None:
    columns = [field.attname for field in Prediction._meta.concrete_fields]
    assert list(PredictionRow._fields) == columns
    (made,) = _score("Good morning")
    stored = Prediction.objects.get()
    assert {**made.__dict__, "_state": None} == {**stored.__dict__, "_state": None}
    assert (made._state.adding, made._state.db) == (stored._state.adding, stored._state.db)
    assert made.model_version == stored.model_version


@pytest.mark.django_db
def test_score_ids_follow_time() -> None:
    ids = [prediction.pk for _ in range(20) for prediction in _score("one", "two")]
    assert ids == sorted(ids)


@pytest.mark.django_db
def test_score_labels_follow_thresholds() -> None:
    served = serving.current()
    (prediction,) = _score("You stupid idiot")
    for label, threshold in zip(LABELS, served.scorer.thresholds, strict=True):
        assert prediction.labels[label] == (prediction.probabilities[label] >= threshold)


@pytest.mark.django_db
def test_append_only_rows_reject_changes(champion: ModelVersion) -> None:
    (prediction,) = _score("A fine day")
    feedback = give_feedback(prediction=prediction, is_right=True)
    for row in (prediction, feedback):
        with pytest.raises(AppendOnlyError):
            row.save()
        with pytest.raises(AppendOnlyError):
            row.delete()
        with pytest.raises(AppendOnlyError):
            type(row).objects.filter(pk=row.pk).update(pk=row.pk)
        with pytest.raises(AppendOnlyError):
            type(row).objects.all().delete()
    assert Prediction.objects.get() == prediction


@pytest.mark.django_db
def test_text_hash_depends_on_text_and_secret_key(settings: object) -> None:
    before = text_hash("a comment")
    key = settings.SECRET_KEY.encode()  # type: ignore[attr-defined]
    assert before == text_hash("a comment") == hmac.digest(key, b"a comment", "sha256").hex()
    assert before != text_hash("a comment ")
    settings.SECRET_KEY = "another site"  # type: ignore[attr-defined]
    assert before != text_hash("a comment")


@pytest.mark.django_db
def test_give_feedback_leaves_unstated_labels_unknown() -> None:
    (prediction,) = _score("You stupid idiot")
    all_six = give_feedback(prediction=prediction, is_right=False, true_labels=["insult"])
    assert all_six.true_labels == {label: label == "insult" for label in LABELS}
    some = give_feedback(
        prediction=prediction, is_right=False, true_labels=["toxic"], known_labels=["toxic", "threat"]
    )
    assert some.true_labels == {"toxic": True, "threat": False}
    assert give_feedback(prediction=prediction, is_right=True).true_labels is None


@pytest.mark.django_db
@pytest.mark.parametrize("visitor", ["", "v1"])
def test_give_feedback_stores_repeated_feedback_once(visitor: str) -> None:
    (prediction,) = _score("A fine day")
    arguments: dict[str, Any] = {"prediction": prediction, "is_right": False, "visitor": visitor}
    first = give_feedback(**arguments, true_labels=["insult"], remark="mild")
    for _ in range(2):
        assert give_feedback(**arguments, true_labels=["insult"], remark="mild") == first
    changed = [
        give_feedback(**arguments | change)
        for change in (
            {"true_labels": ["insult"]},
            {"true_labels": ["insult"], "known_labels": ["insult"]},
            {"true_labels": []},
            {},
            {"is_right": True},
            {"true_labels": ["insult"], "remark": "mild"},  # again the first statement
        )
    ]
    other = give_feedback(prediction=prediction, is_right=True, visitor="v2")
    assert Feedback.objects.count() == 8
    assert set(Feedback.objects.effective()) == {changed[-1], other}


@pytest.mark.django_db(transaction=True)
def test_give_feedback_stores_concurrent_repetitions_once(champion: ModelVersion) -> None:
    (prediction,) = _score("A fine day")
    barrier = Barrier(4)

    def send() -> int:
        try:
            barrier.wait()
            return give_feedback(prediction=prediction, is_right=True).pk
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        ids = [future.result() for future in [pool.submit(send) for _ in range(4)]]
    assert {Feedback.objects.get().pk} == set(ids)
