"""Eight moderators work on one queue, over HTTP, on PostgreSQL: each item is decided exactly once."""

import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from toxicmod.testing import servers
from toxicmod.testing.site import manage, site

MODERATORS, ITEMS = 8, 2_000
_CREATE_MODERATORS = f"""
from django.contrib.auth.models import Group
from apps.accounts.actions import create_api_key
from apps.core.permissions import SYSTEM
from apps.accounts.models import User
for number in range({MODERATORS}):
    user = User.objects.create_user(f"moderator{{number}}", is_staff=True, all_communities=True)
    user.groups.add(Group.objects.get(name="moderator"))
    print("key", create_api_key(actor=SYSTEM, name=user.username, acts_as=user, rate_per_minute=10**9)[1])
"""
_ONCE = """
SELECT count(*), count(DISTINCT item_id) FROM moderation_decision WHERE item_id IS NOT NULL AND NOT automatic
"""
_ITEMS = "SELECT count(*), count(*) FILTER (WHERE status = 'open') FROM moderation_queueitem"
_EXPIRE = """
UPDATE moderation_queueitem SET lease_until = now() - interval '1 second'
WHERE lease_by_id IS NOT NULL AND id IN (
    SELECT id FROM moderation_queueitem WHERE lease_by_id IS NOT NULL ORDER BY random() LIMIT 2
)
"""


def _post(url: str, key: str, body: dict[str, Any]) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json", "Authorization": f"Api-Key {key}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
            return response.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def _fill(url: str, key: str) -> None:
    """Send comments that the default policy puts into the queue."""

    def send(number: int) -> str:
        text = f"Comment {number}: what a silly thing to say, you clown"
        status, body = _post(f"{url}/api/v1/moderate", key, {"text": text, "external_id": str(number)})
        assert status == 200, body
        return body["outcome"]

    with ThreadPoolExecutor(MODERATORS) as pool:
        assert set(pool.map(send, range(ITEMS))) == {"human_review"}


def _work(url: str, key: str) -> dict[int, int]:
    """Claim and decide until the queue is empty; return the number of decisions by status of the response."""
    counts: dict[int, int] = {}
    idle = 0
    while idle < 20:
        status, item = _post(f"{url}/api/v1/moderation/queue/claim", key, {})
        if status == 204:  # others may have leased the last items, and the leases may expire
            idle += 1
            time.sleep(0.1)
            continue
        assert status == 200, (status, item)
        idle = 0
        decide = f"{url}/api/v1/moderation/queue/{item['id']}/decide"
        status, body = _post(decide, key, {"action": "approve", "version": item["version"]})
        assert status in (200, 409), (status, body)
        counts[status] = counts.get(status, 0) + 1
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("expiring", [False, True], ids=["leases hold", "leases expire"])
def test_eight_moderators_decide_every_item_exactly_once(tmp_path: Path, expiring: bool) -> None:
    stop = threading.Event()

    def expire(database: str) -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            while not stop.wait(0.02):
                connection.execute(_EXPIRE)

    with servers.postgres() as database, site(tmp_path, DATABASE_URL=database) as (url, env):
        manage("install_default_policy", env=env)
        manage("create_roles", env=env)
        keys = [
            line.split()[1]
            for line in manage("shell", "-v0", "-c", _CREATE_MODERATORS, env=env).splitlines()
            if line.startswith("key ")
        ]
        assert len(keys) == MODERATORS
        _fill(url, keys[0])
        with ThreadPoolExecutor(MODERATORS + 1) as pool:
            expirer = pool.submit(expire, database) if expiring else None
            try:
                counts = list(pool.map(lambda key: _work(url, key), keys))
            finally:
                stop.set()
            if expirer:
                expirer.result()
        with psycopg.connect(database) as connection:
            decisions, items_decided = connection.execute(_ONCE).fetchone() or (0, 0)
            items, still_open = connection.execute(_ITEMS).fetchone() or (0, 0)
    # A fraction of the items gets a blind second review, which is another item.
    assert items >= ITEMS
    assert sum(statuses.get(200, 0) for statuses in counts) == decisions == items_decided == items
    assert still_open == 0
    assert all(statuses.get(200) for statuses in counts)
    if not expiring:
        assert not any(statuses.get(409) for statuses in counts)
