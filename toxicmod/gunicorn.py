"""The configuration of gunicorn: one process per core, each with uvicorn's event loop."""

import gc
import os
import resource
import shutil
import signal
import sys
import tempfile
from typing import Any

wsgi_app = "toxicmod.asgi:application"
bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", os.cpu_count() or 1))
worker_class = "toxicmod.server.WebWorker"
# The model and the compiled code are loaded before the fork, so that workers share the memory and start
# quickly.
preload_app = True
# `when_ready` freezes the loaded objects; the documentation of `gc.freeze` recommends no collection until
# then.
gc.disable()
# Each process keeps its Prometheus counters in a file in this folder. prometheus_client reads the variable on
# import, so `manage.py serve`, which forks gunicorn from a process that has imported it, sets it itself.
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="toxicmod-metrics-")
os.makedirs(os.environ["PROMETHEUS_MULTIPROC_DIR"], exist_ok=True)
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
    from toxicmod.postgresql import limits
    from toxicmod.preload import preload

    limits.set_defaults(limits.WEB)
    preload()


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
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
