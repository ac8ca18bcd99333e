"""The site of the week: PostgreSQL, Valkey, MLflow, gunicorn, and the workers that `compose.yaml` names.

All processes use one clock, which the test moves. Their logs are kept.
"""

import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg
import redis
import yaml
from psycopg.rows import namedtuple_row

from toxicmod.testing import servers
from toxicmod.testing.clock import Clock, environ
from toxicmod.testing.site import ROOT, free_port, manage, wait_until_answered

PASSWORD = "correct horse battery staple"
METRICS_TOKEN = "the week's token"
START = (0, 6)  # Monday, 06:00 UTC
WAIT_SECONDS = 600.0  # real time, for a busy machine
BEAT_SCHEDULER = "toxicmod.tests.week.beat:Scheduler"
_SET_UP = """
import json
from django.conf import settings
from django.core.management import call_command
from apps.accounts.models import User
call_command("migrate", verbosity=0)
for command in ("install_base_model", "create_roles", "install_default_policy", "install_default_alerts"):
    call_command(command)
# `make test-week` has collected the static files, unless one was changed since.
manifest = settings.STATIC_ROOT / "staticfiles.json"
collected_at = manifest.stat().st_mtime if manifest.exists() else 0
if any(path.stat().st_mtime > collected_at for path in (settings.BASE_DIR / "static").rglob("*")):
    call_command("collectstatic", verbosity=0, interactive=False)
User.objects.create_superuser("root", "root@example.org", PASSWORD)
schedules = [(entry["task"], entry["schedule"]) for entry in settings.CELERY_BEAT_SCHEDULE.values()]
slow = [task for task, route in settings.CELERY_TASK_ROUTES.items() if route["queue"] == "training"]
print(json.dumps([schedules, slow]))
"""
_EXPIRED = re.compile(r"Discarding revoked task: (?P<task>[\w.]+)\[(?P<id>[\w-]+)\]")
_TASK = re.compile(r"Task (?P<task>[\w.]+)\[(?P<id>[\w-]+)\] (?P<what>received|succeeded|raised|retry|.*)")


class Line(NamedTuple):
    """A line of a log."""

    process: str
    level: str
    logger: str
    message: str

    def __str__(self) -> str:
        return f"{self.process}: {self.level} {self.logger}: {self.message}"


@dataclass
class RequestCounts:
    """The requests of the clients: all, and those rejected with a 4xx status, by source."""

    calls: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, path: str, status: int) -> None:
        """Count a request that got a response."""
        if source := source_of(path):
            with self.lock:
                self.calls[source] += 1
                self.rejected[source] += 400 <= status < 500


def source_of(path: str) -> str | None:
    """Return the source under which the dashboard counts a request, or None."""
    path = path.partition("?")[0]
    if path.startswith("/api/v1/"):
        return "api"
    if path.startswith("/v1alpha1/") or path == "/batch":
        return "perspective"
    if path.startswith("/v1/"):
        return "openai"
    if path.startswith("/connectors/"):
        return "connector"
    elsewhere = ("/static/", "/admin/", "/monitoring/", "/health", "/ready", "/metrics")
    return None if path.startswith(elsewhere) else "page"


@dataclass
class Process:
    """A process of the site.

    Attributes:
        offset: the number of bytes of the log that were read.
        level: the level of the last line; Celery's first lines have no format.
    """

    name: str
    running: subprocess.Popen[bytes]
    log: Path
    offset: int = 0
    level: str = "BANNER"


@dataclass
class Tasks:
    """The ids of a task's messages in the logs of the workers."""

    received: set[str] = field(default_factory=set)
    succeeded: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)


class Site:
    """A running site."""

    def __init__(self, folder: Path, clock: Clock, database: str, broker: str, env: dict[str, str]) -> None:
        self.folder, self.clock, self.env = folder, clock, env
        self.url = f"http://127.0.0.1:{env['PORT']}"
        self.broker = redis.Redis.from_url(broker)
        self.database = psycopg.connect(database, autocommit=True, row_factory=namedtuple_row)
        self.database.execute("SET TIME ZONE 'UTC'")
        self.processes: list[Process] = []
        self.lines: list[Line] = []
        self.tasks: dict[str, Tasks] = {}
        self.schedules: dict[str, float] = {}
        self.slow: set[str] = set()  # tasks of the trainer
        self.request_counts = RequestCounts()

    # The database

    def rows(self, query: str, *parameters: Any) -> list[Any]:
        """Return the rows of a query."""
        return self.database.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def one(self, query: str, *parameters: Any) -> Any:
        """Return the only column of a query's only row."""
        (row,) = self.rows(query, *parameters)
        return row[0]

    # The logs

    def read(self) -> None:
        """Read what the processes have logged since the last call."""
        for process in self.processes:
            with process.log.open("rb") as file:
                file.seek(process.offset)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            process.offset += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                if line.strip():
                    self._record(process, parse(process.name, line))

    def _record(self, process: Process, line: Line) -> None:
        if line.level == "PLAIN" and (process.level == "BANNER" or line.message.startswith("  ")):
            line = line._replace(level=process.level)  # a continuation of the previous line
        process.level = line.level
        self.lines.append(line)
        if match := _EXPIRED.match(line.message):  # the clock was moved while the task waited
            self.tasks.setdefault(match["task"], Tasks()).received.discard(match["id"])
            return
        if not line.logger.startswith("celery.") or not (match := _TASK.match(line.message)):
            return
        task = self.tasks.setdefault(match["task"], Tasks())
        if match["what"] == "received":
            task.received.add(match["id"])
        else:
            task.ended.add(match["id"])
            if match["what"].startswith("succeeded"):
                task.succeeded.add(match["id"])

    # Time

    def forward(self, *, trainer: bool = False, **by: float) -> None:
        """Move the clock forward, and wait until the due schedules have run and the workers are idle.

        Args:
            trainer: wait also until the trainer's schedules have succeeded. A training delays these.
            by: the arguments of a timedelta.
        """
        self.settle()
        if trainer:  # A task that was sent before would otherwise be taken for the one that becomes due.
            self.wait(
                lambda: not self._trainer_is_busy(), lambda: f"the trainer is still busy before {by} more"
            )
        self.read()
        before = {name: set(task.received) for name, task in self.tasks.items()}
        delta = timedelta(**by)
        self.clock.forward(delta)
        due = {task for task, seconds in self.schedules.items() if seconds <= delta.total_seconds()}

        def missing() -> list[str]:
            return [
                task
                for task in due - self.slow
                if not self.tasks.get(task, Tasks()).received - before.get(task, set())
            ]

        def missing_in_trainer() -> list[str]:
            return [
                task
                for task in due & self.slow
                if not self.tasks.get(task, Tasks()).succeeded - before.get(task, set())
            ]

        self.wait(lambda: not missing(), lambda: f"after {delta} these schedules did not run: {missing()}")
        self.settle()
        if trainer:
            self.wait(
                lambda: not missing_in_trainer(),
                lambda: (
                    f"after {delta} these schedules of the trainer did not succeed: {missing_in_trainer()}"
                ),
            )

    def _trainer_is_busy(self) -> bool:
        running = (self.tasks[name].received - self.tasks[name].ended for name in self.slow & set(self.tasks))
        return bool(self.broker.llen("training")) or any(running)

    def settle(self, seconds: float = -20.0) -> None:
        """Wait until the workers are idle, all requests are counted, and no webhook is due within `seconds`.

        By default, webhooks may still wait that were due in the last 20 seconds.
        """
        self.wait(lambda: not any(self._busy(seconds).values()), lambda: f"still busy: {self._busy(seconds)}")

    def _busy(self, seconds: float) -> dict[str, Any]:
        # A webhook's message waits in the worker until the webhook is due.
        running = {
            name: len(task.received - task.ended)
            for name, task in self.tasks.items()
            if task.received - task.ended and not name.endswith(".deliver") and name not in self.slow
        }
        queues = [key for key in ("default", "webhooks") if self.broker.llen(key)]
        until = self.clock.now() + timedelta(seconds=seconds)
        due = self.one(
            "SELECT count(*) FROM moderation_delivery v JOIN webhooks_endpoint e ON e.id = v.endpoint_id"
            " WHERE v.status IN ('pending', 'sending') AND v.send_after < %s"
            " AND (e.paused_until IS NULL OR e.paused_until < %s)",
            until,
            until,
        )
        counted = dict(
            self.rows("SELECT source, sum(requests)::int FROM monitoring_requestminute GROUP BY source")
        )
        uncounted = {
            source: calls - counted.get(source, 0)
            for source, calls in self.request_counts.calls.items()
            if calls != counted.get(source, 0)
        }
        runs = self.one("SELECT count(*) FROM training_trainingrun WHERE status IN ('queued', 'running')")
        return {
            "tasks": running,
            "queues": queues,
            "webhooks": due,
            "training runs": runs,
            "calls that are not counted": uncounted,
        }

    def wait(self, condition: Any, message: Any, seconds: float = WAIT_SECONDS) -> Any:
        """Wait until the condition is true; return its value.

        Raises:
            AssertionError: it is not true in time; the message contains `message()`.
        """
        end = time.monotonic() + seconds
        while True:
            self.read()
            if value := condition():
                return value
            for process in self.processes:
                assert process.running.poll() is None, f"{process.name} ended: {self.tail(process)}"
            assert time.monotonic() < end, f"{message()} ({seconds:.0f} s)"
            time.sleep(0.05)

    def tail(self, process: Process) -> str:
        """Return the end of a process's log."""
        return process.log.read_text(errors="replace")[-3_000:]

    # Processes

    def start(self, name: str, command: list[str], **env: str) -> Process:
        """Start a process of the site."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as file:
            running = subprocess.Popen(
                command, cwd=ROOT, env=self.env | env, stdout=file, stderr=file, start_new_session=True
            )
        process = Process(name, running, log)
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """Stop every process, in reverse order of their start."""
        for process in reversed(self.processes):
            process.running.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.running.wait(15)
            except subprocess.TimeoutExpired:
                process.running.kill()
                process.running.wait()
        self.database.close()
        self.broker.close()

    def manage(self, *args: str) -> str:
        """Run a manage.py command by the site's clock; return what it printed."""
        return manage(*args, env=self.env)


def parse(process: str, line: str) -> Line:
    """Parse a line of a log. A line in an unknown format has the level PLAIN."""
    if line.startswith("{"):
        try:
            record = json.loads(line)
            message = record["message"] + (f"\n{record['exc_info']}" if record.get("exc_info") else "")
            return Line(process, record["levelname"], record["name"], message)
        except (ValueError, KeyError):
            pass
    if match := re.match(r"\[[^\]]+\] \[\d+\] \[(\w+)\] (.*)", line):  # gunicorn's format
        return Line(process, match[1], "gunicorn", match[2])
    return Line(process, "PLAIN", "", line)


def celery_commands() -> dict[str, list[str]]:
    """Return the commands of the services in `compose.yaml` that run Celery, by name."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    commands = {name: str(service.get("command", "")).split() for name, service in services.items()}
    return {name: command for name, command in commands.items() if command[:1] == ["celery"]}


def _start_time(now: datetime) -> datetime:
    """Return the next Monday morning that is at least a day away."""
    weekday, hour = START
    day = (now + timedelta(days=1)).replace(hour=hour, minute=0, second=0, microsecond=0)
    return day + timedelta(days=(weekday - day.weekday()) % 7)


@contextmanager
def week_site(folder: Path, *, environment: dict[str, str] | None = None) -> Iterator[Site]:
    """Set up and run the site, with production's defaults; its week begins on a Monday morning."""
    now = datetime.now(UTC)
    with ExitStack() as stack:
        shared = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clock-")))
        shared.chmod(0o755)  # PostgreSQL runs as another user
        clock = Clock(shared)
        clock.set(round((_start_time(now) - now).total_seconds()))
        with environ(clock.environment):
            database = stack.enter_context(servers.postgres())
            broker = stack.enter_context(servers.redis())
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("CREATE DATABASE mlflow")
        records = urlsplit(database)._replace(path="/mlflow").geturl()
        mlflow = servers.MLflow(folder, records, str(folder / "artifacts"), clock.environment)
        stack.callback(mlflow.stop)
        mlflow.start()
        port = str(free_port())
        env = servers.os.environ | clock.environment | {
            "PRODUCTION": "1",
            "SECRET_KEY": "the week's secret key, which is long enough for every check of Django's",
            "ALLOWED_HOSTS": "127.0.0.1",
            "CSRF_TRUSTED_ORIGINS": f"http://127.0.0.1:{port}",
            "TRUSTED_PROXIES": "1",
            "DATABASE_URL": database,
            "REDIS_URL": broker,
            "MLFLOW_TRACKING_URI": mlflow.url,
            "MLFLOW_TRACKING_USERNAME": mlflow.USER,
            "MLFLOW_TRACKING_PASSWORD": mlflow.PASSWORD,
            "METRICS_TOKEN": METRICS_TOKEN,
            "PUBLIC_URL": f"https://127.0.0.1:{port}",
            "EMAIL_URL": f"filemail:///{folder}/mail",
            "WEBHOOK_ALLOW_PRIVATE": "1",
            "WEB_CONCURRENCY": "2",
            "DATA_DIR": str(folder / "data"),
            "PORT": port,
        } | (environment or {})  # fmt: skip
        (folder / "mail").mkdir()
        listed = manage("shell", "-v0", "-c", f"PASSWORD = {PASSWORD!r}\n{_SET_UP}", env=env).splitlines()[-1]
        site = Site(folder, clock, database, broker, env)
        stack.callback(site.stop)
        web = site.start(
            "web", [sys.executable, "-m", "gunicorn", "--config", "python:toxicmod.tests.week.gunicorn"]
        )
        for name, command in celery_commands().items():
            options = (
                ["--scheduler", BEAT_SCHEDULER, "--schedule", str(folder / "beat")]
                if "beat" in command
                else []
            )
            arguments = [argument for argument in command[1:] if not argument.startswith("/tmp")]
            if "--schedule" in arguments:
                arguments.remove("--schedule")
            site.start(name, [sys.executable, "-m", "celery", *arguments, *options])
        schedules, slow = json.loads(listed)
        site.schedules, site.slow = {task: float(seconds) for task, seconds in schedules}, set(slow)
        wait_until_answered(web.running, f"{site.url}/ready")
        mlflow.wait()
        yield site
