"""Put the comments to learn from into the queue."""

from argparse import ArgumentParser
from collections import Counter
from typing import Any

from apps.core.management import ProjectCommand
from apps.moderation import actions
from apps.moderation.errors import ModerationError
from apps.registry.exceptions import NoModelError


class Command(ProjectCommand):
    help = """Choose which comments to label next, and put them into the queue's view “Learn”.

Chosen are those of the newest unseen comments on which the model is least sure, and those on which
champion and challenger disagree; no two of them alike. A tenth is drawn at random and stands under
“Audit”. The schedule does the same once a day with LABELS_PER_DAY comments; a draw by hand counts as
that day's."""
    examples = "  manage.py queue_to_learn\n  manage.py queue_to_learn --count 200"
    expected_errors = (ModerationError, NoModelError)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--count", type=int, default=50, help="How many (50).")

    def handle(self, *args: Any, **options: Any) -> None:
        items = actions.queue_to_learn(count=options["count"])
        why = Counter(item.get_selection_reason_display() or "drawn at random" for item in items)
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(why.items()))
        self.stdout.write(f"Queued {len(items)} comments to learn from{f' ({reasons})' if reasons else ''}.")
