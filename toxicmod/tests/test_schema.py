"""The OpenAPI document."""

import os
import subprocess
import sys
from pathlib import Path

from toxicmod.testing.site import ROOT

# drf-spectacular imports the targets of its extensions on first use, so a new process is needed. Slow imports
# make sure that all callers are in the middle of the same one, which raises AttributeError without a lock.
FIRST_CALLERS = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import sleep

import django
from django.test import RequestFactory
from django.urls import resolve
from django.utils.module_loading import import_string

django.setup()
view = resolve("/api/v1/schema").func  # imports every view, as a worker does before it serves
from drf_spectacular import plumbing  # needs the settings

def import_slowly(name):
    sleep(0.01)
    return import_string(name)

plumbing.import_string = import_slowly
barrier = Barrier(12)

def call(_):
    request = RequestFactory().get("/api/v1/schema")
    barrier.wait(30)
    response = view(request).render()
    return response.status_code, hash(response.content)

with ThreadPoolExecutor(12) as pool:
    print(set(pool.map(call, range(12))))
"""


def test_concurrent_first_requests_get_the_document(tmp_path: Path) -> None:
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "toxicmod.settings", "DATA_DIR": str(tmp_path)}
    process = subprocess.run(
        [sys.executable, "-c", FIRST_CALLERS], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert process.stdout.startswith("{(200, "), process.stdout + process.stderr[-2000:]
    assert process.stdout.count("(") == 1
