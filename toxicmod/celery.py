"""The Celery application. The tasks are in the `tasks` module of each app."""

import gc
import os
from typing import Any

from celery import Celery
from celery.signals import worker_before_create_process

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "toxicmod.settings")
# While another process uses a core, threads of scikit-learn that wait for each other actively take all the
# time from the thread that they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = Celery("toxicmod")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_before_create_process.connect
def freeze_garbage_collector(**kwargs: Any) -> None:
    """Exclude loaded code from garbage collection, so that pool processes share its memory with their parent.

    Without this, a collection writes to each object that it visits, and so copies the shared pages.
    """
    gc.freeze()
