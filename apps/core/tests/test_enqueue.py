"""Tasks are published while the broker works, is down or hangs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.signals import worker_process_shutdown, worker_shutdown
from celery.utils.dispatch import Signal
from kombu.exceptions import OperationalError

from apps.core import enqueue as module
from apps.core.enqueue import enqueue, flush

ROOT = Path(__file__).resolve().parents[3]
app = Celery("tests", set_as_current=False)


@app.task(name="deliver")
def deliver(delivery_id: int) -> None: ...


@app.task(name="build")
def build(name: str, base_id: int | None) -> None: ...


class Broker:
    """Stands in for Celery's application: it records, fails or hangs."""

    def __init__(self) -> None:
        self.published: list[tuple[str, tuple[Any, ...]]] = []
        self.expires: list[float] = []
        self.is_up = True
        self.may_respond = threading.Event()
        self.may_respond.set()

    def send_task(self, task: str, *, args: tuple[Any, ...], countdown: float, expires: float) -> None:
        self.may_respond.wait()
        if not self.is_up:
            raise OperationalError("down")
        self.published.append((task, args))
        self.expires.append(expires)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, transactional_db: None) -> Iterator[Broker]:
    fake = Broker()
    monkeypatch.setattr(module, "current_app", fake)
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(module, "_publisher", module._Publisher())
    yield fake
    fake.is_up = True
    fake.may_respond.set()
    assert flush(5)


def test_enqueue_returns_at_once_while_the_broker_hangs(broker: Broker) -> None:
    broker.may_respond.clear()
    start = time.monotonic()
    for number in range(20):
        enqueue(deliver, number)
    assert time.monotonic() - start < 0.5
    assert not flush(0.05)
    broker.may_respond.set()
    assert flush(5)
    assert broker.published == [("deliver", (number,)) for number in range(20)]


def test_enqueue_publishes_once_a_broker_that_was_down_returns(broker: Broker) -> None:
    broker.is_up = False
    enqueue(build, "decisions", None)
    assert not flush(0.1)
    broker.is_up = True
    assert flush(5)
    assert broker.published == [("build", ("decisions", None))]


def test_enqueue_discards_expired_and_excess_tasks(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    broker.is_up = False
    enqueue(deliver, 0, expires=0.01)
    for number in range(5):
        enqueue(build, "kept", number)
    time.sleep(0.1)
    broker.is_up = True
    assert flush(5)
    assert broker.published == [("build", ("kept", 0)), ("build", ("kept", 1))]


def test_enqueue_in_forked_process_does_not_publish_tasks_of_parent(broker: Broker) -> None:
    broker.may_respond.clear()
    enqueue(deliver, 0)
    process = os.fork()
    if process == 0:  # the child process: its assertions would not reach pytest
        is_empty = not module._publisher._messages and module._publisher._thread is None
        os._exit(0 if is_empty else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


@pytest.mark.parametrize("ending", [worker_process_shutdown, worker_shutdown])
def test_worker_publishes_its_tasks_before_it_ends(broker: Broker, ending: Signal) -> None:
    """The trainer's process ends after each task, and the tasks that it has enqueued must not be lost."""
    broker.may_respond.clear()
    enqueue(deliver, 1)
    threading.Timer(0.2, broker.may_respond.set).start()
    ending.send(sender=None)
    assert broker.published == [("deliver", (1,))]


_SCRIPT = """
import time, django
django.setup()
from apps.core.enqueue import enqueue
from apps.moderation.tasks import deliver_due
start = time.monotonic()
enqueue(deliver_due)
print(time.monotonic() - start)
"""


@pytest.mark.slow
def test_enqueue_does_not_wait_for_stopped_broker(redis_url: str) -> None:
    """A stopped process accepts connections but never responds."""
    server = redis.Redis.from_url(redis_url).info()["process_id"]
    environment = os.environ | {"REDIS_URL": redis_url, "DJANGO_SETTINGS_MODULE": "toxicmod.settings"}
    os.kill(server, signal.SIGSTOP)
    try:
        start = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert float(result.stdout) < 0.1
        assert time.monotonic() - start < 60
    finally:
        os.kill(server, signal.SIGCONT)
