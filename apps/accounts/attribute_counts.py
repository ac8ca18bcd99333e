"""Counts attributes of Perspective that are requested but not scored, in memory; a thread stores the counts.

The Perspective-compatible API counts them, and the thread of `apps.monitoring.request_metrics` stores them,
so that no request waits for it. API keys show the counts in the admin.
"""

import threading
from collections import Counter
from collections.abc import Iterable

from django.db import DatabaseError, transaction
from django.db.models import F

from apps.accounts.models import UnsupportedAttribute

MAX_ATTRIBUTES = 100  # of an API key; clients choose the names
MAX_COUNTS = 1_000  # that wait in memory
OTHERS = "other attributes"
_MAX_NAME = 100
_counts: Counter[tuple[int, str]] = Counter()  # by API key and attribute
_lock = threading.Lock()


def count_unsupported(api_key_id: int, attributes: Iterable[str]) -> None:
    """Count attributes that a request named and that are not scored."""
    with _lock:
        for attribute in attributes:
            item = (api_key_id, attribute[:_MAX_NAME])
            _counts[item if item in _counts or len(_counts) < MAX_COUNTS else (api_key_id, OTHERS)] += 1


def store_counts() -> None:
    """Add the counts to the database.

    Raises:
        DatabaseError: the database does not respond. The counts are kept.
    """
    with _lock:
        counts = dict(_counts)
        _counts.clear()
    try:
        with transaction.atomic():
            for (api_key_id, attribute), requests in counts.items():
                _add(api_key_id, attribute, requests)
    except DatabaseError:
        with _lock:
            _counts.update(counts)
        raise


def _add(api_key_id: int, attribute: str, requests: int) -> None:
    rows = UnsupportedAttribute.objects.filter(api_key=api_key_id)
    if not rows.filter(attribute=attribute).exists() and rows.count() >= MAX_ATTRIBUTES:
        attribute = OTHERS
    UnsupportedAttribute.objects.update_or_create(
        api_key_id=api_key_id,
        attribute=attribute,
        defaults={"requests": F("requests") + requests},
        create_defaults={"requests": requests},
    )
