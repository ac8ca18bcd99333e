"""The configuration of gunicorn: one process per core, each with uvicorn's event loop."""

import gc
import os
import resource
import shutil
import signal
import sys
import tempfile
from threading import Thread
from typing import Any

wsgi_app = "toxicmod.asgi:application"
bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
# PostgreSQL cancels slow statements itself; the longer limit is for a server that does not respond.
os.environ.setdefault("DATABASE_TIMEOUT", "5")
os.environ.setdefault("STATEMENT_TIMEOUT_MS", "4500")
workers = int(os.environ.get("WEB_CONCURRENCY", os.cpu_count() or 1))
worker_class = "toxicmod.server.WebWorker"
# The model and the compiled code are loaded before the fork, so that workers share the memory and start
# quickly.
preload_app = True
# `when_ready` freezes the loaded objects; the documentation of `gc.freeze` recommends no collection until
# then.
gc.disable()
# Each process keeps its Prometheus counters in a file in this folder. prometheus_client reads the variable on
# import.
_metrics_folder = tempfile.mkdtemp(prefix="toxicmod-metrics-")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics_folder
timeout = 30
graceful_timeout = 30
keepalive = 75
control_socket_disable = True
# Each connection needs a file descriptor, and the usual soft limit is 1,024.
MAX_FILE_DESCRIPTORS = 65_536
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
_limit = MAX_FILE_DESCRIPTORS if _hard == resource.RLIM_INFINITY else min(_hard, MAX_FILE_DESCRIPTORS)
if _soft != resource.RLIM_INFINITY and _soft < _limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_limit, _hard))


def on_starting(server: Any) -> None:
    """Load and compile everything that a request needs, before the fork and before the server listens."""
    from django.db import connections
    from django.urls import reverse

    from apps.classifier import languages
    from apps.classifier.scorer import warm
    from apps.registry import serving
    from apps.registry.exceptions import NoModelError
    from toxicmod.compiler_memory import release_compiler

    # Loading mostly decompresses data, which another core can do at the same time.
    language_loader = Thread(target=languages.load)
    language_loader.start()
    scorer = None
    try:
        scorer = serving.current().scorer
    except NoModelError as error:
        server.log.warning("%s", error)
    reverse("health")  # imports every view
    language_loader.join()
    languages.load()  # raises the exception if the thread failed
    if scorer:
        warm(scorer)
    release_compiler()
    connections.close_all()


def post_worker_init(worker: Any) -> None:
    """Configure the interpreter for the server, and start the thread that writes the worker's metrics.

    After its shutdown, uvicorn sends itself the signal again, which must not end the process before
    `worker_exit`. The shorter switch interval lets a thread continue soon after it has waited for the
    database. The higher threshold avoids several garbage collections per batch.
    """
    from apps.monitoring import request_metrics

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: sys.exit(0))
    sys.setswitchinterval(0.0001)
    gc.set_threshold(20_000)
    request_metrics.start()


def worker_exit(server: Any, worker: Any) -> None:
    """Write the metrics of the last seconds."""
    from apps.monitoring import request_metrics

    request_metrics.stop()


def when_ready(server: Any) -> None:
    """Exclude the loaded objects from garbage collection before the fork, and log the site's URLs.

    A collection of half a million objects would block a worker, and copy the memory that the workers share.
    """
    gc.freeze()
    gc.enable()
    url = f"http://{bind.replace('0.0.0.0', '127.0.0.1')}"
    server.log.info(
        "toxicmod is ready\n\n"
        "  Site     %(url)s/\n"
        "  API      %(url)s/api/v1/docs\n"
        "  Console  %(url)s/admin/\n",
        {"url": url},
    )


def on_exit(server: Any) -> None:
    """Remove the folder with the Prometheus counters."""
    shutil.rmtree(_metrics_folder, ignore_errors=True)
