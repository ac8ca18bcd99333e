"""The OpenAPI document."""

import os
import subprocess
import sys
from pathlib import Path

from toxicmod.tests.site import ROOT

# The race is there only on first use, so a process of its own is needed.
FIRST_CALLERS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import django
from django.test import RequestFactory
from django.urls import resolve

django.setup()
view = resolve("/api/v1/schema").func  # imports every view, as a worker does before it serves
sys.setswitchinterval(1e-4)
barrier = Barrier(12)

def call(_):
    request = RequestFactory().get("/api/v1/schema")
    barrier.wait()
    response = view(request).render()
    return response.status_code, hash(response.content)

with ThreadPoolExecutor(12) as pool:
    print(set(pool.map(call, range(12))))
"""


def test_concurrent_first_callers_all_get_the_document(tmp_path: Path) -> None:
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "toxicmod.settings", "DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALLERS], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.stdout.startswith("{(200, "), done.stdout + done.stderr[-2000:]
    assert done.stdout.count("(") == 1
