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
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "toxicmod.settings"}
    command = [sys.executable, "-c", FORBIDDEN]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    warning, error = process.stderr.split("ERROR")
    assert "Forbidden" in warning
    assert "Traceback" not in warning
    assert "Traceback" in error


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
