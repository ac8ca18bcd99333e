"""Predictions are stored before the response, also on errors of a batch or the connection."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import psycopg
import pytest
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.accounts.actions import create_api_key
from apps.accounts.models import APIKey
from apps.core.permissions import SYSTEM
from apps.predictions import actions, bulk_insert
from apps.predictions.models import Prediction, PredictionRow
from apps.registry.models import ModelVersion


def row(champion: ModelVersion, text: str = "a") -> PredictionRow:
    probabilities = [0.5] * 6
    return PredictionRow(
        uuid7(), timezone.now(), None, "api", "", "", text, "", *probabilities, 0, champion.pk, 1, False
    )


def insert(row: PredictionRow) -> None:
    (error,) = bulk_insert.insert_batches([[row]])
    if error is not None:
        raise error


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_score_returns_after_commit(champion: ModelVersion) -> None:
    def score(number: int) -> bool:
        try:
            (made,), _ = actions.score(texts=[f"comment {number}"], source=Prediction.Source.API)
            return Prediction.objects.filter(pk=made.pk).exists()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(score, range(80)))
    assert Prediction.objects.count() == 80


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_score_batches_isolates_failed_batch(champion: ModelVersion) -> None:
    good, other = actions.Comment("Good morning"), actions.Comment("Good night", external_id="1")
    unknown_key = actions.Comment("Good evening", api_key=APIKey(pk=999_999_999))
    stored = actions.score_batches(
        batches=[[good], [other, unknown_key], [other]], source=Prediction.Source.PERSPECTIVE
    )
    assert isinstance(stored[1], IntegrityError)
    assert [(row.text, row.external_id) for row in Prediction.objects.order_by("pk")] == [
        ("Good morning", ""),
        ("Good night", "1"),
    ]
    rows = [row for result in stored if not isinstance(result, Exception) for row in result[0]]
    assert [row.id for row in rows] == list(Prediction.objects.order_by("pk").values_list("pk", flat=True))


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_score_batches_stores_all_columns(champion: ModelVersion) -> None:
    key, _ = create_api_key(actor=SYSTEM, name="test")
    comments = [
        actions.Comment("Guten Morgen, schöne Welt \U0001f600\n", key, "forum", "nº 1"),
        actions.Comment("Good night", do_not_store=True),
    ]
    (one, two), (lone, *_) = (
        actions.score_batches(batches=[batch], source=Prediction.Source.API)[0][0]  # type: ignore[index]
        for batch in (comments, comments[:1])
    )
    for row in (one, two, lone):
        assert Prediction.objects.values_list(*PredictionRow._fields).get(pk=row.id) == row


@pytest.mark.django_db(transaction=True)
def test_insert_batches_in_transaction_is_rolled_back(champion: ModelVersion) -> None:
    with transaction.atomic():
        insert(row(champion))
        assert Prediction.objects.count() == 1
        transaction.set_rollback(True)
    assert not Prediction.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_insert_batches_replaces_broken_connection(champion: ModelVersion) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no connection to lose; on PostgreSQL this test runs")
    insert(row(champion))
    (pid,) = connection.connection.execute("SELECT pg_backend_pid()").fetchone()
    with psycopg.connect(connection.connection.info.dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [pid])
    insert(row(champion))
    assert Prediction.objects.count() == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_insert_batches_waits_once_for_silent_server(champion: ModelVersion) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no server to wait for; on PostgreSQL this test runs")
    connection.ensure_connection()
    parameters = connection.connection.info.get_parameters()
    limits = ("connect_timeout", "tcp_user_timeout", "keepalives_idle", "keepalives_interval")
    assert [parameters[name] for name in limits] == ["3", "5000", "2", "1"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = connection.settings_dict["OPTIONS"] | {"host": "127.0.0.1", "connect_timeout": 2}
        where = {"PORT": silent.getsockname()[1], "HOST": "", "OPTIONS": options}
        connection.close()
        began = time.monotonic()
        with patch.object(connection, "settings_dict", connection.settings_dict | where):
            errors = bulk_insert.insert_batches([[row(champion)] for _ in range(5)])
    assert {type(error) for error in errors} == {OperationalError}
    assert 1 < time.monotonic() - began < 6, "each batch waited"
