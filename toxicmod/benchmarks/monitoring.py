"""Rollups and dashboard with ten million predictions: time, memory and latency."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
    model_version_id)
  SELECT uuidv7(at - clock_timestamp()), at,
    CASE WHEN way < 0.8 THEN 'api' WHEN way < 0.95 THEN 'perspective' ELSE 'page' END,
    'community-' || floor(random() * 20), '', text, text_hash, toxic, severe_toxic, obscene, threat, insult,
    identity_hate, label_mask, (150 * exp(random_normal() / 2))::int, NULL, model_version_id
  FROM made JOIN sample USING (place)
  RETURNING id, created_at, label_mask
)
INSERT INTO predictions_feedback (prediction_id, api_key_id, is_right, true_mask, known_mask, remark, visitor,
  created_at)
SELECT id, NULL, label_mask = true_mask, true_mask, NULL, '', '', created_at
FROM (SELECT *, CASE WHEN random() < 0.8 THEN label_mask ELSE label_mask # 1 END AS true_mask FROM added)
WHERE random() < {FEEDBACK_SHARE}"""


class BenchError(Exception):
    """The database does not hold what the bench needs; the message says what to do."""


def require_disk_space() -> None:
    """Make sure that this is a database that `fill` can fill.

    Raises:
        BenchError: it is no PostgreSQL of version 18, or holds no predictions to copy.
    """
    if connection.vendor != "postgresql" or connection.pg_version < 180_000:  # type: ignore[attr-defined]
        raise BenchError("This fills a PostgreSQL 18, which makes UUIDs of version 7: set DATABASE_URL.")
    if not Prediction.objects.exists():
        raise BenchError("Run `manage.py seed_benchmark` first: what it stores is copied.")


def fill(*, count: int) -> Iterator[datetime]:
    """Add predictions until there are `count`, and feedback to one in a hundred; yield each day that is done.

    They are made in the database of the oldest ones stored, texts and scores, over the last 90 days.

    Raises:
        BenchError: see `require_disk_space`.
    """
    require_disk_space()
    missing = count - Prediction.objects.count()
    begin = start_of_hour(datetime.now(UTC)) - timedelta(days=DAYS)
    with connection.cursor() as cursor:
        # Every reference is made here: looking each of them up takes longer than adding the rows.
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
    """Count everything anew, and make sure that nothing is missing."""
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
    """Return how many seconds a run takes that finds nothing new."""
    actions.roll_up()
    start = time.perf_counter()
    actions.roll_up()
    return time.perf_counter() - start


def sign_in() -> str:
    """Return the session cookie of somebody who may see everything."""
    user, _ = User.objects.get_or_create(
        username="bench-monitoring", defaults={"is_staff": True, "is_superuser": True}
    )
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client.cookies["sessionid"].value


@dataclass(frozen=True)
class Timing:
    """How long a panel's callbacks take, over all windows and kinds of filters, in milliseconds."""

    panel: str
    runs: int
    p50: float
    p95: float
    kilobytes: float


def time_callbacks(url: str, cookie: str) -> list[Timing]:
    """Ask a running site for every panel, in every window, of all traffic, of a source and of a community."""
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
            if number >= 0:  # the first round warms the database
                milliseconds.append((time.perf_counter() - start) * 1e3)
            answer.raise_for_status()
            sizes.append(len(answer.content))
        p50, p95 = np.percentile(milliseconds, [50, 95])
        timings.append(Timing(panel, len(milliseconds), float(p50), float(p95), max(sizes) / 1e3))
    return timings


def time_first_view(browser: Browser, url: str, cookie: str) -> list[float]:
    """Return how many milliseconds each visit took until the first panel was drawn, with nothing cached."""
    milliseconds = []
    for _ in range(VISITS):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_cookies([{"name": "sessionid", "value": cookie, "url": url}])
        page = context.new_page()
        page.goto(url + PAGE, wait_until="commit")
        drawn = page.wait_for_function(
            "() => document.querySelector('.plots .main-svg, .plots .empty') && performance.now()"
        )
        milliseconds.append(float(drawn.json_value()))
        context.close()
    return milliseconds


def table(rows: list[Timing] | list[Counting]) -> str:
    """Return figures as a table."""
    shown: Callable[[object], str] = lambda cell: f"{cell:,.1f}" if isinstance(cell, float) else f"{cell:,}"  # noqa: E731
    cells = [[cell if isinstance(cell, str) else shown(cell) for cell in astuple(row)] for row in rows]
    head = [field.name.replace("_", " ") for field in fields(rows[0])]
    return "\n".join("".join(f"{cell:>14}" for cell in row) for row in [head, *cells])
