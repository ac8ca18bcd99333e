"""Make a model version the champion."""

from typing import Any

from django.core.management.base import CommandParser

from apps.registry.management import base
from apps.training import actions
from apps.training.sources import SourceError


class Command(base.Command):
    help = """Make a model version the champion: every process serves it within five seconds, no restart.

It must pass its gates, measured on the held-out rows of the data set imported last: mean ROC-AUC, and
each label's ROC-AUC and PR-AUC against the champion's; calibration; the worst group's BPSN and BNSP AUC;
disguised spelling; time per comment; and how many of last week's comments would change sides. Who
promoted it, why, and what the gates said is kept."""
    examples = """  manage.py promote_model challenger --reason "Learned from October's decisions"
  manage.py promote_model v3 --reason "Catches the new slur; worth the loss elsewhere" --force"""
    refusals = (SourceError, actions.TrainingError)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("version", help=base.VERSION_HELP)
        parser.add_argument("--reason", required=True, help="Why; it is kept with the promotion.")
        parser.add_argument(
            "--force", action="store_true", help="Promote although a gate fails; it is recorded."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        version = base.find_version(options["version"])
        promotion = actions.promote(
            version=version, reason=options["reason"], actor=base.operator(), force=options["force"]
        )
        for gate in promotion.gates:
            self.stdout.write(actions.gate_sentence(gate))
        replaced = f", in place of {promotion.replaced}" if promotion.replaced else ""
        self.stdout.write(f"{version} is the champion{replaced}{', by force' if promotion.forced else ''}.")
        self.sync_tracking()
