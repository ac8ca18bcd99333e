"""Send the webhooks that are due."""

from argparse import ArgumentParser
from typing import Any

from apps.core.management import ProjectCommand, number_from
from apps.moderation import actions
from apps.moderation.models import Delivery


class Command(ProjectCommand):
    help = """Send the webhooks that are due, without Celery: from cron, or while the broker is down.

It is safe to run it next to workers: one process at a time sends to an endpoint."""
    examples = "  manage.py deliver_webhooks\n  manage.py deliver_webhooks --limit 1000"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--limit",
            type=number_from(1, 1_000_000),
            default=200,
            help="The maximum number of webhooks (200).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        sent: list[Delivery] = []
        for endpoint_id in actions.due_endpoints():
            remaining = options["limit"] - len(sent)
            sent += actions.deliver_endpoint(endpoint_id=endpoint_id, limit=remaining)
        delivered = sum(delivery.status == Delivery.Status.DELIVERED for delivery in sent)
        self.stdout.write(f"Delivered {delivered} of {len(sent)} webhooks that were due.")
