"""Queue comments for active learning."""

from argparse import ArgumentParser
from collections import Counter
from typing import Any

from apps.core.management import ProjectCommand, number_from
from apps.moderation import actions


class Command(ProjectCommand):
    help = """Select comments to label next, and put them into the queue “Active learning”.

It selects new comments on which the model is least certain, and those on which champion and challenger
disagree, without near-duplicates. A tenth is a random sample in the queue “Audit”. The schedule does the
same once a day with LABELS_PER_DAY comments, unless this command has run that day."""
    examples = "  manage.py queue_for_labeling\n  manage.py queue_for_labeling --count 200"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--count", type=number_from(1, 100_000), default=50, help="Number of comments (50)."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        items = actions.queue_for_labeling(count=options["count"])
        counts = Counter(item.get_selection_reason_display() or "random sample" for item in items)
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
        self.stdout.write(
            f"Queued {len(items)} comments for active learning{f' ({reasons})' if reasons else ''}."
        )
