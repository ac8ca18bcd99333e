"""Send the webhooks that are due."""

from argparse import ArgumentParser
from typing import Any

from apps.moderation import actions
from apps.registry.management import base


class Command(base.Command):
    help = """Send the webhooks that are due, without Celery: from cron, or while the broker is down.

It is safe to run it next to workers: each webhook is in one pair of hands at a time."""
    examples = "  manage.py deliver_webhooks\n  manage.py deliver_webhooks --limit 1000"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--limit", type=int, default=200, help="Send at most so many (200).")

    def handle(self, *args: Any, **options: Any) -> None:
        sent = [
            actions.deliver(delivery_id=delivery_id)
            for delivery_id in actions.due_deliveries(limit=options["limit"])
        ]
        done = sum(delivery is not None and delivery.status == "delivered" for delivery in sent)
        self.stdout.write(f"Delivered {done} of {len(sent)} webhooks that were due.")
