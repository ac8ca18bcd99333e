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

HEAVY = {"sklearn", "scipy.stats", "matplotlib", "mlflow", "pandas", "pyarrow"}


def _queue_options(path: Path, pattern: str) -> list[str]:
    return re.findall(pattern, path.read_text())


@pytest.mark.parametrize("configuration", ["run_workers", "compose.yaml", "ansible"])
def test_each_queue_has_its_own_worker(configuration: str) -> None:
    if configuration == "run_workers":
        queues = [re.search(r"-Q (\S+)", options)[1] for options in WORKERS.values()]
    elif configuration == "ansible":
        worker_kinds = yaml.safe_load((ROOT / "ansible/roles/worker/defaults/main.yml").read_text())[
            "worker_kinds"
        ]
        queues = [kind["queues"] for kind in worker_kinds]
    else:
        queues = _queue_options(ROOT / "compose.yaml", r"-Q (\S+)")
    assert sorted(queues) == sorted(queue.name for queue in settings.CELERY_TASK_QUEUES)


@pytest.mark.skipif(sys.platform != "linux", reason="the compiler is unmapped on Linux only")
def test_release_compiler_unmaps_it_and_leaves_compiled_code_usable() -> None:
    code = """
import psutil
from apps.classifier.normalise import normalise
from toxicmod.compiler_memory import LIBRARY, release_compiler

def resident():
    return sum(part.rss for part in psutil.Process().memory_maps() if part.path.endswith(LIBRARY))

first = normalise("y0u are st*pid")
before = resident()
release_compiler()
print(before, resident(), normalise("y0u are st*pid") == first)
"""
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    before, after, is_equal = output.split()
    assert int(after) < int(before) / 2
    assert is_equal == "True"


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
