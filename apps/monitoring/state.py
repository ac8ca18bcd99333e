"""What is so at this moment, of what no hourly count tells: queue, broker, mirror."""

import redis
from django.conf import settings

from apps.mirror.models import ChangeLogEntry, MirrorState
from apps.moderation.models import QueueItem

CAP = 100_000  # items counted at most


def open_items(community: str | None = None) -> int:
    """Return how many queue items are open, at most CAP."""
    items = QueueItem.objects.open().order_by()
    if community is not None:
        items = items.filter(community=community)
    return items.values("pk")[:CAP].count()


def broker_depths() -> dict[str, int] | None:
    """How many messages each queue holds; None where the broker does not answer at once."""
    if not settings.REDIS_URL:
        return None
    names = [each.name for each in settings.CELERY_TASK_QUEUES]
    try:
        with redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=0.2, socket_connect_timeout=0.2
        ) as broker:
            return {name: broker.llen(name) for name in names}
    except redis.RedisError:
        return None


def mirror_lag() -> float | None:
    """Age in seconds of the oldest record that the mirror lacks; None where it was never on."""
    return ChangeLogEntry.objects.lag().seconds if MirrorState.objects.exists() else None
