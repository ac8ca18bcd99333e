"""Publish Celery tasks without making the caller wait for the broker. The actions of every app call it.

A thread of this process publishes them. While the broker is down or hangs, they wait in memory. If the
process ends first, the schedules find the same work in the database later.
"""

import atexit
import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import Task, current_app
from celery.signals import worker_process_shutdown, worker_shutdown
from django.db import transaction

logger = logging.getLogger(__name__)

MAX_WAITING = 1_000
_RETRY_SECONDS = 2.0
_EXIT_SECONDS = 2.0


@dataclass(frozen=True)
class _Message:
    task: str
    args: tuple[Any, ...]
    due_at: float  # on the monotonic clock, like `expires_at`
    expires_at: float


class _Publisher:
    """A bounded queue of messages and the thread that publishes them in order."""

    def __init__(self) -> None:
        self._messages: deque[_Message] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, message: _Message) -> None:
        """Queue a message and return at once; discard it if `MAX_WAITING` messages wait already."""
        with self._changed:
            if len(self._messages) >= MAX_WAITING:
                logger.warning(
                    "%d tasks wait for the broker; discarded %s, which the schedule does later",
                    MAX_WAITING,
                    message.task,
                )
                return
            self._messages.append(message)
            self._changed.notify_all()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="enqueue", daemon=True)
                self._thread.start()

    def flush(self, timeout: float) -> bool:
        """Wait until every message has been published; return False if that takes longer than `timeout`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._messages, timeout)

    def _run(self) -> None:
        is_down = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._messages)
                message = self._messages[0]
            try:
                _publish(message)
            except Exception as error:  # the thread must survive every error of the broker's client
                if not is_down:
                    logger.warning(
                        "The broker can't be reached, tasks wait: %s (%s)",
                        message.task,
                        error.__class__.__name__,
                    )
                is_down = True
                time.sleep(_RETRY_SECONDS)
                continue
            if is_down:
                logger.info("The broker can be reached again")
            is_down = False
            with self._changed:
                self._messages.popleft()
                self._changed.notify_all()


def _publish(message: _Message) -> None:
    now = time.monotonic()
    if message.expires_at > now:
        current_app.send_task(
            message.task,
            args=message.args,
            countdown=max(message.due_at - now, 0),
            expires=message.expires_at - now,
        )


_publisher = _Publisher()


def _replace_publisher() -> None:
    global _publisher
    _publisher = _Publisher()


# A forked process inherits its parent's messages, which the parent publishes, but not the thread.
os.register_at_fork(after_in_child=_replace_publisher)


def enqueue(task: Task, *args: Any, countdown: float = 0, expires: float = 3_600) -> None:
    """Publish a task once the current transaction has been committed. Never waits for the broker.

    Args:
        args: the task's arguments, which JSON has to represent.
        countdown: seconds until the task may run.
        expires: seconds after which the task is discarded.
    """
    transaction.on_commit(partial(_add, task.name, args, countdown, expires), robust=True)


def _add(task: str, args: tuple[Any, ...], countdown: float, expires: float) -> None:
    now = time.monotonic()
    _publisher.add(_Message(task, args, now + countdown, now + countdown + expires))


def flush(timeout: float = _EXIT_SECONDS) -> bool:
    """Wait until this process has published its tasks; return False if that takes longer than `timeout`."""
    return _publisher.flush(timeout)


def _flush(**_: Any) -> None:
    flush()


atexit.register(flush)
# Celery's processes end without running `atexit` functions, and the trainer's process ends after each task.
worker_process_shutdown.connect(_flush)
worker_shutdown.connect(_flush)
