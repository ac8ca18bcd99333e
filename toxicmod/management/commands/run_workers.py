"""`manage.py run_workers`: all Celery workers of one machine, which share the memory of the loaded code."""

import gc
import os
import signal
import time
from typing import Any

from django.core.management import BaseCommand
from django.db import connections

from toxicmod.celery import app
from toxicmod.parent_death import end_with_parent

# Webhooks wait for other people's servers, so they run in threads that hold up no other task. A training
# process ends after each task, which returns the memory of scikit-learn and MLflow.
WORKERS = {
    "worker": "-Q default -c 2 --max-memory-per-child 230000 --beat",
    "webhooks": "-Q webhooks -P threads -c 8",
    "trainer": "-Q training -c 1 --max-tasks-per-child 1",
}
NICENESS = {"trainer": 10}
# A training takes longer than a stop may: it is interrupted (Celery's cold shutdown) and starts again later.
STOP_SIGNALS = {"trainer": signal.SIGQUIT}
RESTART_SECONDS = 1.0


class Command(BaseCommand):
    help = "Run the Celery workers for all queues and the scheduler. `manage.py serve` runs it."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--schedule", required=True, help="The file of the scheduler's state.")

    def handle(self, *args: Any, **options: Any) -> None:
        self._is_stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        app.loader.import_default_modules()
        connections.close_all()
        gc.collect()
        gc.freeze()
        self._names = {self._start(name, options["schedule"]): name for name in WORKERS}
        while self._names:
            pid, _ = os.wait()
            name = self._names.pop(pid, None)
            if name and not self._is_stopping:
                time.sleep(RESTART_SECONDS)
                self._names[self._start(name, options["schedule"])] = name

    def _start(self, name: str, schedule: str) -> int:
        if pid := os.fork():
            return pid
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        end_with_parent()
        os.nice(NICENESS.get(name, 0))
        arguments = WORKERS[name].split()
        if "--beat" in arguments:
            arguments += ["--schedule", schedule]
        app.worker_main(["-q", "worker", "-l", "WARNING", "-n", f"{name}@%h", *arguments])
        os._exit(0)

    def _stop(self, number: int, frame: Any) -> None:
        self._is_stopping = True
        for pid, name in self._names.items():
            os.kill(pid, STOP_SIGNALS.get(name, signal.SIGTERM))
