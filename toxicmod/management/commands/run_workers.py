"""`manage.py run_workers`: run all Celery workers of a machine, which share the memory of loaded code.

With `--web` the web server shares it too.
"""

import gc
import os
import signal
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import Any

from celery.beat import EmbeddedService
from django.core.management import BaseCommand
from django.db import connections
from gunicorn.app.wsgiapp import run as gunicorn

from apps.classifier.normalise import normalise
from toxicmod.celery import app
from toxicmod.compiler_memory import release_compiler
from toxicmod.parent_death import end_with_parent
from toxicmod.preload import preload

# Webhooks wait for servers of others, so they have a worker of their own and don't block other tasks. Threads
# take 80 MB less than processes here. A training process ends after each task, which frees the memory of
# scikit-learn and MLflow.
WORKERS = {
    "worker": "-Q default -P threads -c 2",
    "webhooks": "-Q webhooks -P threads -c 8",
    "trainer": "-Q training -c 1 --max-tasks-per-child 1",
}
WEB = "web"
# Celery imports these modules when a worker starts, and they take 30 MB in each process that does.
PRELOADED = (
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "kombu.transport.redis",
)
# A thread of this worker, which does not fork, schedules tasks. A process for it would take 35 MB.
SCHEDULING_WORKER = "webhooks"
NICENESS = {"trainer": 10}
# A training run takes too long to wait for: it is interrupted (Celery's cold shutdown) and starts again
# later.
STOP_SIGNALS = {"trainer": signal.SIGQUIT}
# A worker without a broker may not stop by itself. The web server does, after its `graceful_timeout`.
STOP_SECONDS = 18
RESTART_SECONDS = 1.0


class Command(BaseCommand):
    requires_system_checks = []  # they load all pages; `manage.py serve` has run them
    help = (
        "Run the Celery workers for all queues and the scheduler, and the web server if asked. "
        "`manage.py serve` runs it."
    )

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--schedule", required=True, help="The file for the state of the scheduler.")
        parser.add_argument("--web", action="store_true", help="Run the web server too.")

    def handle(self, *args: Any, **options: Any) -> None:
        self._is_stopping = False
        self._names: dict[int, str] = {}
        self._schedule = options["schedule"]
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, self._kill)
        app.loader.import_default_modules()
        for module in PRELOADED:
            import_module(module)
        normalise("warm")  # loads the compiler of Numba, which takes 50 MB in each process that does
        if options["web"]:
            preload()
        release_compiler()
        connections.close_all()
        gc.collect()
        gc.freeze()
        for name in [*WORKERS, WEB] if options["web"] else WORKERS:
            self._start(name)
        while self._names:
            pid, _ = os.wait()
            if name := self._names.pop(pid, ""):
                time.sleep(0 if self._is_stopping else RESTART_SECONDS)
                self._start(name)

    def _start(self, name: str) -> None:
        """Fork a worker or the web server, unless the command is stopping."""
        if self._is_stopping:
            return
        if pid := os.fork():
            self._names[pid] = name
            if self._is_stopping:  # the signal arrived during the fork
                os.kill(pid, STOP_SIGNALS.get(name, signal.SIGTERM))
            return
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        end_with_parent()
        if name == WEB:
            sys.argv = ["gunicorn", "--config", "python:toxicmod.gunicorn"]
            gunicorn()  # ends with SystemExit
        os.nice(NICENESS.get(name, 0))
        if name == SCHEDULING_WORKER:
            EmbeddedService(app, thread=True, schedule_filename=self._schedule).start()
        app.worker_main(["-q", "worker", "-l", "WARNING", "-n", f"{name}@%h", *WORKERS[name].split()])
        os._exit(0)

    def _stop(self, number: int, frame: Any) -> None:
        if not self._is_stopping:
            signal.alarm(STOP_SECONDS)
        self._is_stopping = True
        for pid, name in self._names.items():
            with suppress(ProcessLookupError):
                os.kill(pid, STOP_SIGNALS.get(name, signal.SIGTERM))

    def _kill(self, number: int, frame: Any) -> None:
        for pid, name in self._names.items():
            if name != WEB:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
