"""The format of log lines."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINE = """
import logging
from toxicmod.celery import app

app.loader.init_worker()
app.log.setup(loglevel="INFO")
logging.getLogger("apps").info("Waited", extra={"queue_age_seconds": 7})
"""

FORBIDDEN = """
import logging, django
django.setup()
for level in (logging.WARNING, logging.ERROR):
    try:
        raise PermissionError("forbidden")
    except PermissionError as error:
        logging.getLogger("django.request").log(level, "Forbidden: /monitoring/", exc_info=error)
"""


def test_forbidden_page_is_logged_without_traceback() -> None:
    process = _run(FORBIDDEN)
    warning, error = process.stderr.split("ERROR")
    assert "Forbidden" in warning
    assert "Traceback" not in warning
    assert "Traceback" in error


REJECTED = """
import django
django.setup()
from django.test import RequestFactory
from django.core.handlers.exception import response_for_exception
from django.contrib.admin.exceptions import DisallowedModelAdminLookup

request = RequestFactory().get("/admin/moderation/queueitem/?submission__community=x")
error = DisallowedModelAdminLookup("Filtering by submission__community not allowed")
print(response_for_exception(request, error).status_code)
"""

STOPPING = """
import django
django.setup()
from kombu.transport.virtual import base

base.logger.warning(base.W_NO_CONSUMERS, "default")
base.logger.warning(base.RESTORING_FMT, 3)
"""


def _run(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "toxicmod.settings"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)


def test_disallowed_lookup_is_logged_without_traceback() -> None:
    process = _run(REJECTED)
    assert process.stdout == "400\n"
    assert "Filtering by submission__community not allowed" in process.stderr
    assert "Traceback" not in process.stderr


def test_stopping_worker_does_not_log_requeued_message() -> None:
    process = _run(STOPPING)
    assert "Requeuing" not in process.stderr
    assert "unacknowledged message(s)" in process.stderr


def test_worker_log_line_is_json_with_fields_in_production(tmp_path: Path) -> None:
    environment = os.environ | {
        "PRODUCTION": "1",
        "SECRET_KEY": "long" * 20,
        "ALLOWED_HOSTS": "example.org",
        "DATABASE_URL": "postgres://nobody@localhost/none",
        "REDIS_URL": "redis://localhost",
        "DATA_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", LINE]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    line = json.loads(process.stderr.splitlines()[-1])
    assert (line["levelname"], line["message"], line["queue_age_seconds"]) == ("INFO", "Waited", 7)
