"""Metrics of the current moment that no hourly rollup holds: queue, broker, mirror."""

import redis
from django.conf import settings

from apps.mirror.models import ChangeLogEntry, MirrorState
from apps.moderation.models import QueueItem

MAX_COUNT = 100_000


def open_items(community: str | None = None) -> int:
    """Return the number of open queue items, counted up to MAX_COUNT."""
    items = QueueItem.objects.open().order_by()
    if community is not None:
        items = items.filter(community=community)
    return items.values("pk")[:MAX_COUNT].count()


def broker_depths() -> dict[str, int] | None:
    """Return the number of messages in each Celery queue, or None if the broker does not respond in 0.2 s."""
    if not settings.REDIS_URL:
        return None
    names = [queue.name for queue in settings.CELERY_TASK_QUEUES]
    try:
        with redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=0.2, socket_connect_timeout=0.2
        ) as broker:
            return {name: broker.llen(name) for name in names}
    except redis.RedisError:
        return None


def mirror_lag() -> float | None:
    """Return the age in seconds of the oldest record not yet in the mirror, or None if it was never on."""
    return ChangeLogEntry.objects.replication_lag().seconds if MirrorState.objects.exists() else None
