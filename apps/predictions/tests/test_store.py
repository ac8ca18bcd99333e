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
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.accounts.actions import create_api_key
from apps.accounts.models import APIKey
from apps.predictions import actions, store
from apps.predictions.models import Prediction, Row
from apps.registry.models import ModelVersion


def row(champion: ModelVersion, text: str = "a") -> Row:
    probabilities = [0.5] * 6
    return Row(uuid7(), timezone.now(), None, "api", "", "", text, "", *probabilities, 0, champion.pk, 1)


def insert(group: store.GroupCommit, row: Row) -> None:
    (error,) = group.insert_each([[row]])
    if error is not None:
        raise error


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_every_thread_returns_when_its_row_is_committed(champion: ModelVersion) -> None:
    connection.ensure_connection()

    def score(number: int) -> bool:
        try:
            if connection.vendor == "sqlite" and connection.is_in_memory_db():
                return True  # threads can't share SQLite in memory; PostgreSQL runs this test in full
            (made,), _ = actions.score(texts=[f"comment {number}"], source=Prediction.Source.API)
            return Prediction.objects.filter(pk=made.pk).exists()
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
def held_up(first: Row) -> Iterator[threading.Event]:
    """Hold up whoever stores the first row, until the event is set; everything else flushes as it does."""
    go_on, commit = threading.Event(), store._commit

    def slow(database: BaseDatabaseWrapper, rows: Sequence[Row]) -> None:
        if rows[0] is first:
            assert go_on.wait(20)
        commit(database, rows)

    with patch.object(store, "_commit", side_effect=slow) as commits:
        go_on.commits = commits  # type: ignore[attr-defined]
        yield go_on


def in_threads(group: store.GroupCommit, rows: Sequence[Row], failures: list[Exception]) -> list[Any]:
    def run(row: Row) -> None:
        try:
            insert(group, row)
        except (OperationalError, IntegrityError) as error:
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[row]) for row in rows]
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
    first, *others = [row(champion, str(number)) for number in range(6)]
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


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_one_bad_row_harms_no_other(champion: ModelVersion, group: store.GroupCommit) -> None:
    first, good, bad = [row(champion, str(number)) for number in range(3)]
    bad = bad._replace(toxic=None)  # type: ignore[arg-type]
    failures: list[Exception] = []
    with held_up(first) as go_on:
        threads = in_threads(group, [first], failures)
        wait_until(lambda: bool(go_on.commits.call_count))
        threads += in_threads(group, [good, bad], failures)
        wait_until(lambda: len(group._waiting) == 2)
        go_on.set()
        for thread in threads:
            thread.join(20)
    assert set(Prediction.objects.values_list("pk", flat=True)) == {first.id, good.id}
    assert [type(failure) for failure in failures] == [IntegrityError]
    with pytest.raises(IntegrityError):
        insert(group, bad)


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
    assert [row.id for row in rows] == list(Prediction.objects.order_by("pk").values_list("pk", flat=True))


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
        assert Prediction.objects.values_list(*Row._fields).get(pk=row.id) == row


@pytest.mark.django_db(transaction=True)
def test_inside_a_transaction_the_row_shares_its_fate(
    champion: ModelVersion, group: store.GroupCommit
) -> None:
    with transaction.atomic():
        insert(group, row(champion))
        assert Prediction.objects.count() == 1
        transaction.set_rollback(True)
    assert not Prediction.objects.exists()


def test_a_failure_is_each_waiting_threads_own(group: store.GroupCommit) -> None:
    failures: list[Exception] = []
    with patch.object(store, "_commit", side_effect=OperationalError):
        for thread in in_threads(group, [row(ModelVersion(pk=1)) for _ in range(6)], failures):
            thread.join(20)
    assert len(failures) == 6


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_a_broken_connection_is_replaced(champion: ModelVersion, group: store.GroupCommit) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no connection to lose; on PostgreSQL this test runs")
    insert(group, row(champion))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    insert(group, row(champion))
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
        errors = group.insert_each([[row(champion)] for _ in range(5)])
    assert {type(error) for error in errors} == {OperationalError}
    assert 1 < time.monotonic() - began < 6, "each part has waited"
