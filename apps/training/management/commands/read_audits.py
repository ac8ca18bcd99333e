"""`manage.py read_audits`: store what the encoder reads in the sentences of audits."""

from typing import Any

from apps.classifier.encoder import EncoderError
from apps.core.management import ProjectCommand
from apps.training import readings


class Command(ProjectCommand):
    help = """Read the sentences with which each model is audited, and store the logits beside the encoder.

Training then takes minutes less where they were not read before. Call it after `train_encoder`, and when the
sentences change. It takes a few minutes."""
    examples = "  manage.py read_audits"
    expected_errors = (EncoderError,)

    def handle(self, *args: Any, **options: Any) -> None:
        path, count = readings.write_audits()
        self.stdout.write(f"Wrote the logits of {count:,} sentences to {path}.")
