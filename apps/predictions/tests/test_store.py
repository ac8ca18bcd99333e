"""Group commit: what was answered is stored, whoever's thread stored it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import pytest
from django.db import IntegrityError, OperationalError, connection, connections, transaction

from apps.predictions import actions, store
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion


def prediction(champion: ModelVersion, text: str = "a") -> Prediction:
    scores = dict.fromkeys(["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"], 0.5)
    return Prediction(
        source="api", text=text, text_hash="", label_mask=0, model_version=champion, latency_us=1, **scores
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_every_thread_returns_when_its_row_is_committed(champion: ModelVersion) -> None:
    connection.ensure_connection()

    def score(number: int) -> bool:
        try:
            if connection.vendor == "sqlite" and connection.is_in_memory_db():
                return True  # threads can't share SQLite in memory; PostgreSQL runs this test in full
            row = actions.score(texts=[f"comment {number}"], source=Prediction.Source.API)[0][0]
            return Prediction.objects.filter(pk=row.pk).exists()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(score, range(80)))
    if connection.vendor != "sqlite":
        assert Prediction.objects.count() == 80


@pytest.mark.django_db(transaction=True)
def test_those_who_wait_share_one_insert(champion: ModelVersion) -> None:
    group = store.GroupCommit()
    first, second = prediction(champion), prediction(champion, "b")
    group._waiting.append(store._Row(second))
    with patch.object(Prediction.objects, "bulk_create", wraps=Prediction.objects.bulk_create) as bulk:
        group.insert(first)
    assert bulk.call_count == 1
    assert set(Prediction.objects.values_list("pk", flat=True)) == {first.pk, second.pk}


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_one_bad_row_harms_no_other(champion: ModelVersion) -> None:
    group = store.GroupCommit()
    good, bad = prediction(champion), prediction(champion, "b")
    bad.toxic = None  # type: ignore[assignment]
    waiting = store._Row(bad)
    group._waiting.append(waiting)
    group.insert(good)
    assert list(Prediction.objects.values_list("pk", flat=True)) == [good.pk]
    assert isinstance(waiting.error, IntegrityError)
    with pytest.raises(IntegrityError):
        group.insert(bad)


@pytest.mark.django_db(transaction=True)
def test_inside_a_transaction_the_row_shares_its_fate(champion: ModelVersion) -> None:
    group = store.GroupCommit()
    with transaction.atomic():
        group.insert(prediction(champion))
        assert Prediction.objects.count() == 1
        transaction.set_rollback(True)
    assert not Prediction.objects.exists()


def test_a_failure_is_each_waiting_threads_own() -> None:
    group, failures = store.GroupCommit(), []

    def insert(row: Any) -> None:
        try:
            group.insert(row)
        except OperationalError as error:
            failures.append(error)

    rows = [Prediction() for _ in range(6)]
    with (
        patch.object(Prediction, "save", side_effect=OperationalError),
        patch.object(Prediction.objects, "bulk_create", side_effect=OperationalError),
        patch.object(store, "connection") as fake,
    ):
        fake.in_atomic_block = False
        threads = [threading.Thread(target=insert, args=[row]) for row in rows]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert len(failures) == 6
