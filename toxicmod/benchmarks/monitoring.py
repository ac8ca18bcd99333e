"""Rollups and dashboard with ten million predictions: time, memory and latency."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import product

import numpy as np
import requests
from django.db import connection
from django.db.models import Sum
from django.test import Client
from playwright.sync_api import Browser

from apps.accounts.models import User
from apps.monitoring import actions
from apps.monitoring.dashboard import PANELS, WINDOWS
from apps.monitoring.models import HourlyRollup, RollupProgress
from apps.monitoring.rollups.hours import start_of_hour
from apps.predictions.models import Prediction
from toxicmod.testing.dashboard import CALLBACK, PAGE, callback_body

DAYS = 90  # the dashboard's longest window
SAMPLE = 20_000
VISITS = 5
RUNS = 5
FEEDBACK_SHARE = 0.01
FIRST_VIEW_MS, CALLBACK_MS = 1_000.0, 300.0

_DRAW = f"""CREATE TEMP TABLE sample AS
SELECT row_number() OVER (ORDER BY id) - 1 AS place, * FROM predictions_prediction
ORDER BY id LIMIT {SAMPLE}"""
_ADD = f"""WITH made AS (
  SELECT %(begin)s::timestamptz + number * (interval '1 day' / %(count)s) AS at,
         floor(random() * (SELECT count(*) FROM sample))::int AS place, random() AS way
  FROM generate_series(0, %(count)s - 1) AS number
), added AS (
  INSERT INTO predictions_prediction (id, created_at, source, community, external_id, text, text_hash, toxic,
    severe_toxic, obscene, threat, insult, identity_hate, label_mask, latency_us, api_key_id,
    model_version_id, was_read)
  SELECT uuidv7(at - clock_timestamp()), at,
    CASE WHEN way < 0.8 THEN 'api' WHEN way < 0.95 THEN 'perspective' ELSE 'page' END,
    'community-' || floor(random() * 20), '', text, text_hash, toxic, severe_toxic, obscene, threat, insult,
    identity_hate, label_mask, (150 * exp(random_normal() / 2))::int, NULL, model_version_id, FALSE
  FROM made JOIN sample USING (place)
  RETURNING id, created_at, label_mask
)
INSERT INTO predictions_feedback (prediction_id, api_key_id, is_right, true_mask, known_mask, remark, visitor,
  created_at)
SELECT id, NULL, label_mask = true_mask, true_mask, NULL, '', '', created_at
FROM (SELECT *, CASE WHEN random() < 0.8 THEN label_mask ELSE label_mask # 1 END AS true_mask FROM added)
WHERE random() < {FEEDBACK_SHARE}"""


class BenchError(Exception):
    """The database lacks rows that the benchmark needs; the message says what to do."""


def require_fillable_database() -> None:
    """Check that `fill` can add rows to the database.

    Raises:
        BenchError: the database is not PostgreSQL 18, or has no predictions to copy.
    """
    if connection.vendor != "postgresql" or connection.pg_version < 180_000:  # type: ignore[attr-defined]
        raise BenchError("The benchmark needs PostgreSQL 18, which has `uuidv7`: set DATABASE_URL.")
    if not Prediction.objects.exists():
        raise BenchError("There are no predictions to copy: run `manage.py seed_benchmark` first.")


def fill(*, count: int) -> Iterator[datetime]:
    """Add predictions until there are `count`, and feedback on one in a hundred; yield each finished day.

    The database copies texts and scores of the oldest predictions and spreads them over the last 90 days.

    Raises:
        BenchError: see `require_fillable_database`.
    """
    require_fillable_database()
    missing = count - Prediction.objects.count()
    begin = start_of_hour(datetime.now(UTC)) - timedelta(days=DAYS)
    with connection.cursor() as cursor:
        # Disable the checks of foreign keys, which take longer than the insert.
        cursor.execute("SET session_replication_role = replica; SET synchronous_commit = off")
        cursor.execute(_DRAW)
        for number in range(DAYS if missing > 0 else 0):
            day = begin + timedelta(days=number)
            share = missing * (number + 1) // DAYS - missing * number // DAYS
            if share:
                cursor.execute(_ADD, {"begin": day, "count": share})
            yield day
        cursor.execute("DROP TABLE sample; RESET session_replication_role; RESET synchronous_commit")
        for table in ("predictions_prediction", "predictions_feedback"):
            cursor.execute(f"VACUUM (ANALYZE) {table}")


@dataclass(frozen=True)
class Counting:
    """A run of `manage.py roll_up` in its own process."""

    predictions: int
    hours: int
    seconds: float
    peak_mb: float


def count_all() -> Counting:
    """Delete the rollups, count all hours in a new process, and check that no prediction is missing."""
    HourlyRollup.objects.all().delete()
    RollupProgress.objects.all().delete()
    connection.close()
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "manage.py", "roll_up"], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    counted = HourlyRollup.objects.overall().aggregate(Sum("requests"))["requests__sum"]
    if process.returncode or counted != Prediction.objects.count():
        raise BenchError(f"roll_up ended with {process.returncode} and counted {counted} predictions.")
    hours = HourlyRollup.objects.values("hour").distinct().count()
    return Counting(counted, hours, seconds, used.ru_maxrss / 1024)


def count_again() -> float:
    """Return the seconds of a run without changed hours."""
    actions.roll_up()
    start = time.perf_counter()
    actions.roll_up()
    return time.perf_counter() - start


def sign_in() -> str:
    """Return the session cookie of a superuser."""
    user, _ = User.objects.get_or_create(
        username="bench-monitoring", defaults={"is_staff": True, "is_superuser": True}
    )
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client.cookies["sessionid"].value


@dataclass(frozen=True)
class Timing:
    """The milliseconds of a panel's callbacks, over all windows and kinds of filters."""

    panel: str
    runs: int
    p50: float
    p95: float
    kilobytes: float


def time_callbacks(url: str, cookie: str) -> list[Timing]:
    """Request every panel from a running site: every window, for all traffic, a source and a community."""
    session = requests.Session()
    session.cookies.set("sessionid", cookie)
    community = HourlyRollup.objects.filter(overall=False).values_list("community", flat=True)[0]
    filters = ("", "&source=api", f"&community={community}")
    timings = []
    for panel in PANELS:
        milliseconds, sizes = [], []
        for number, (window, filter_query) in product(range(-1, RUNS), product(WINDOWS, filters)):
            body = callback_body(f"?panel={panel}&window={window}{filter_query}")
            start = time.perf_counter()
            answer = session.post(
                url + CALLBACK, body, headers={"Content-Type": "application/json"}, timeout=60
            )
            if number >= 0:  # the first round fills the database's cache
                milliseconds.append((time.perf_counter() - start) * 1e3)
            answer.raise_for_status()
            sizes.append(len(answer.content))
        p50, p95 = np.percentile(milliseconds, [50, 95])
        timings.append(Timing(panel, len(milliseconds), float(p50), float(p95), max(sizes) / 1e3))
    return timings


def time_first_view(browser: Browser, url: str, cookie: str) -> list[float]:
    """Return the milliseconds from navigation to the first panel, for visits with an empty cache."""
    milliseconds = []
    for _ in range(VISITS):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_cookies([{"name": "sessionid", "value": cookie, "url": url}])
        page = context.new_page()
        page.goto(url + PAGE, wait_until="commit")
        elapsed = page.wait_for_function(
            "() => document.querySelector('.plots .main-svg, .plots .empty') && performance.now()"
        )
        milliseconds.append(float(elapsed.json_value()))
        context.close()
    return milliseconds


def _format(cell: object) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell:,.1f}" if isinstance(cell, float) else f"{cell:,}"


def table(rows: list[Timing] | list[Counting]) -> str:
    """Return the rows as a table."""
    cells = [[_format(cell) for cell in astuple(row)] for row in rows]
    head = [field.name.replace("_", " ") for field in fields(rows[0])]
    return "\n".join("".join(f"{cell:>14}" for cell in row) for row in [head, *cells])
