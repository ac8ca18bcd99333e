"""gunicorn's configuration: a process per core, each with uvicorn's event loop."""

import gc
import os
import resource
import shutil
import sys
import tempfile
from typing import Any

wsgi_app = "toxicmod.asgi:application"
bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
# PostgreSQL gives up a slow statement itself; the longer limit is for a server that has stopped answering.
os.environ.setdefault("DATABASE_TIMEOUT", "5")
os.environ.setdefault("STATEMENT_TIMEOUT_MS", "4500")
workers = int(os.environ.get("WEB_CONCURRENCY", os.cpu_count() or 1))
worker_class = "toxicmod.server.Worker"
# The model and the compiled code are loaded before the fork: workers share their pages and start at once.
preload_app = True
# What is loaded stays: to look for garbage among it, again and again, took 0.4 s of the start.
gc.disable()
# Each process keeps its Prometheus counters in a file here; must be set before the library is imported.
_counters = tempfile.mkdtemp(prefix="toxicmod-metrics-")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _counters
timeout = 30
graceful_timeout = 30
keepalive = 75
control_socket_disable = True
# Each connection takes a file descriptor, and the usual soft limit is 1,024.
MAX_FILE_DESCRIPTORS = 65_536
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
_wanted = MAX_FILE_DESCRIPTORS if _hard == resource.RLIM_INFINITY else min(_hard, MAX_FILE_DESCRIPTORS)
if _soft != resource.RLIM_INFINITY and _soft < _wanted:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_wanted, _hard))


def post_worker_init(worker: Any) -> None:
    """Let threads that come back from the database go on soon: by default a busy one is let be for 5 ms.

    Look for garbage less often: answers leave hardly any, and a batch had it looked for several times.
    Start writing the worker's counts: Django is loaded by now, and threads outlive no fork.
    """
    from apps.monitoring import request_metrics

    sys.setswitchinterval(0.0005)
    gc.set_threshold(20_000)
    request_metrics.start()


def when_ready(server: Any) -> None:
    """Say where the site is, once it listens; set what is loaded apart from garbage collection, which begins.

    Looking through half a million objects that stay would stop a worker for a tenth of a second now and then,
    and write to the pages that it shares with the others. One in a hundred is garbage, and is kept with them.
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
    """Take the counters' files away."""
    shutil.rmtree(_counters, ignore_errors=True)
