"""`manage.py run_workers` and the memory that a worker needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from django.conf import settings

from toxicmod.management.commands.run_workers import WORKERS
from toxicmod.testing.site import ROOT

HEAVY = {"sklearn", "scipy.stats", "matplotlib", "mlflow", "pandas"}


def _queues(path: Path, pattern: str) -> list[str]:
    return re.findall(pattern, path.read_text())


@pytest.mark.parametrize("place", ["run_workers", "compose.yaml", "ansible"])
def test_each_queue_has_its_own_worker(place: str) -> None:
    if place == "run_workers":
        served = [re.search(r"-Q (\S+)", options)[1] for options in WORKERS.values()]
    elif place == "ansible":
        kinds = yaml.safe_load((ROOT / "ansible/roles/worker/defaults/main.yml").read_text())["worker_kinds"]
        served = [kind["queues"] for kind in kinds]
    else:
        served = _queues(ROOT / "compose.yaml", r"-Q (\S+)")
    assert sorted(served) == sorted(queue.name for queue in settings.CELERY_TASK_QUEUES)


def test_tasks_and_pages_load_no_training_libraries() -> None:
    code = (
        "import sys, django; django.setup()\n"
        "from toxicmod.celery import app\n"
        "app.loader.import_default_modules()\n"
        "import toxicmod.urls\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert not HEAVY & set(output.split())
