"""Group commit: what was answered is stored, whoever's thread stored it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from apps.accounts.actions import create_api_key
from apps.accounts.models import APIKey
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


@pytest.fixture
def group() -> Iterator[store.GroupCommit]:
    """A group of the test's own, whose connection ends with it."""
    group = store.GroupCommit()
    yield group
    group.close()


@contextmanager
def held_up(first: Prediction) -> Iterator[threading.Event]:
    """Hold up whoever stores the first row, until the event is set; everything else flushes as it does."""
    go_on, commit = threading.Event(), store._commit

    def slow(database: BaseDatabaseWrapper, predictions: Sequence[Prediction]) -> None:
        if predictions[0] is first:
            assert go_on.wait(20)
        commit(database, predictions)

    with patch.object(store, "_commit", side_effect=slow) as commits:
        go_on.commits = commits  # type: ignore[attr-defined]
        yield go_on


def in_threads(group: store.GroupCommit, rows: Sequence[Prediction], failures: list[Exception]) -> list[Any]:
    def insert(row: Prediction) -> None:
        try:
            group.insert([row])
        except (OperationalError, IntegrityError) as error:
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=insert, args=[row]) for row in rows]
    for thread in threads:
        thread.start()
    return threads


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_those_who_wait_share_one_flush(champion: ModelVersion, group: store.GroupCommit) -> None:
    first, *others = [prediction(champion, str(number)) for number in range(6)]
    with held_up(first) as go_on:
        threads = in_threads(group, [first], [])
        wait_until(lambda: bool(go_on.commits.call_count))
        threads += in_threads(group, others, [])
        wait_until(lambda: len(group._waiting) == 5)
        assert all(thread.is_alive() for thread in threads)
        go_on.set()
        for thread in threads:
            thread.join(20)
        assert [len(call.args[1]) for call in go_on.commits.call_args_list] == [1, 5]
    assert Prediction.objects.count() == 6
    assert not first._state.adding


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_one_bad_row_harms_no_other(champion: ModelVersion, group: store.GroupCommit) -> None:
    first, good, bad = [prediction(champion, str(number)) for number in range(3)]
    bad.toxic = None  # type: ignore[assignment]
    failures: list[Exception] = []
    with held_up(first) as go_on:
        threads = in_threads(group, [first], failures)
        wait_until(lambda: bool(go_on.commits.call_count))
        threads += in_threads(group, [good, bad], failures)
        wait_until(lambda: len(group._waiting) == 2)
        go_on.set()
        for thread in threads:
            thread.join(20)
    assert set(Prediction.objects.values_list("pk", flat=True)) == {first.pk, good.pk}
    assert [type(failure) for failure in failures] == [IntegrityError]
    with pytest.raises(IntegrityError):
        group.insert([bad])


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_one_bad_comment_harms_no_other_that_came_with_it(champion: ModelVersion) -> None:
    good, other = actions.Comment("Good morning"), actions.Comment("Good night", external_id="1")
    unknown_client = actions.Comment("Good evening", client=APIKey(pk=999_999_999))
    stored = actions.score_each(
        asked=[[good], [other, unknown_client], [other]], source=Prediction.Source.PERSPECTIVE
    )
    assert isinstance(stored[1], IntegrityError)
    assert [(row.text, row.external_id) for row in Prediction.objects.order_by("pk")] == [
        ("Good morning", ""),
        ("Good night", "1"),
    ]
    rows = [row for each in stored if not isinstance(each, Exception) for row in each[0]]
    assert rows == list(Prediction.objects.order_by("pk"))


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_what_is_stored_is_what_was_meant(champion: ModelVersion) -> None:
    key, _ = create_api_key(name="test")
    comments = [
        actions.Comment("Guten Morgen, schöne Welt \U0001f600\n", key, "forum", "nº 1"),
        actions.Comment("Good night", do_not_store=True),
    ]
    (one, two), (lone, *_) = (
        actions.score_each(asked=[asked], source=Prediction.Source.API)[0][0]  # type: ignore[index]
        for asked in (comments, comments[:1])
    )
    for row in (one, two, lone):
        stored = Prediction.objects.get(pk=row.pk)
        for column in Prediction.columns():
            assert getattr(stored, column) == getattr(row, column)


@pytest.mark.django_db(transaction=True)
def test_inside_a_transaction_the_row_shares_its_fate(
    champion: ModelVersion, group: store.GroupCommit
) -> None:
    with transaction.atomic():
        group.insert([prediction(champion)])
        assert Prediction.objects.count() == 1
        transaction.set_rollback(True)
    assert not Prediction.objects.exists()


def test_a_failure_is_each_waiting_threads_own(group: store.GroupCommit) -> None:
    failures: list[Exception] = []
    with patch.object(store, "_commit", side_effect=OperationalError):
        for thread in in_threads(group, [Prediction() for _ in range(6)], failures):
            thread.join(20)
    assert len(failures) == 6


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_a_broken_connection_is_replaced(champion: ModelVersion, group: store.GroupCommit) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no connection to lose; on PostgreSQL this test runs")
    group.insert([prediction(champion)])
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    group.insert([prediction(champion)])
    assert Prediction.objects.count() == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_a_server_that_says_nothing_is_given_up_and_asked_no_more(
    champion: ModelVersion, group: store.GroupCommit
) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no server to wait for; on PostgreSQL this test runs")
    connection.ensure_connection()
    said = connection.connection.info.get_parameters()
    limits = ("connect_timeout", "tcp_user_timeout", "keepalives_idle", "keepalives_interval")
    assert [said[name] for name in limits] == ["3", "5000", "2", "1"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        group._database = database = connections.create_connection("default")
        database.inc_thread_sharing()
        options = database.settings_dict["OPTIONS"] | {"host": "127.0.0.1", "connect_timeout": 2}
        where = {"PORT": silent.getsockname()[1], "HOST": "", "OPTIONS": options}
        database.settings_dict = database.settings_dict | where
        began = time.monotonic()
        errors = group.insert_each([[prediction(champion)] for _ in range(5)])
    assert {type(error) for error in errors} == {OperationalError}
    assert 1 < time.monotonic() - began < 6, "each part has waited"
