"""Make a model version the champion."""

from typing import Any

from django.core.management.base import CommandParser

from apps.core.management import get_operator
from apps.registry.gates import describe, failures_first, summarize
from apps.registry.management.base import VERSION_HELP, ModelCommand, find_version
from apps.training import actions, rollout
from apps.training.runs import TrainingError
from apps.training.sources import SourceError


class Command(ModelCommand):
    help = """Make a model version the champion: every process serves it within five seconds, no restart.

It must pass its gates, measured on the held-out rows of the data set imported last: mean ROC-AUC, and
each label's ROC-AUC and PR-AUC against the champion's; calibration; the worst group's BPSN and BNSP AUC;
disguised spelling; time per comment; and how many of last week's comments would change sides. Who
promoted it, why, and what the gates said is kept."""
    examples = """  manage.py promote_model challenger --reason "Learned from October's decisions"
  manage.py promote_model challenger --canary 0.05 --reason "Try it on a twentieth of the requests first"
  manage.py promote_model v3 --reason "Catches the new slur; worth the loss elsewhere" --force"""
    expected_errors = (SourceError, TrainingError)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("version", help=VERSION_HELP)
        parser.add_argument("--reason", required=True, help="Why; it is kept with the promotion.")
        parser.add_argument(
            "--force", action="store_true", help="Promote although a gate fails; it is recorded."
        )

        parser.add_argument(
            "--canary",
            type=float,
            metavar="SHARE",
            help="Let it serve this share of the requests first. Once it has served enough it becomes "
            "champion by itself, unless it was forced; it is rolled back where errors, latency or flag rate "
            "leave their band.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        version = find_version(options["version"])
        actions.measure_gates(version=version)
        asked: dict[str, Any] = {
            "version": version,
            "reason": options["reason"],
            "actor": get_operator(),
            "force": options["force"],
        }
        if options["canary"] is not None:
            canary = rollout.start_canary(share=options["canary"], **asked)
            self._tell(canary.gates, f"{version} serves {canary.share:.1%} of the requests", canary.forced)
            return
        promotion = rollout.promote(**asked)
        replaced = f", in place of {promotion.replaced}" if promotion.replaced else ""
        self._tell(promotion.gates, f"{version} is the champion{replaced}", promotion.forced)

    def _tell(self, gates: list[dict[str, Any]], done: str, forced: bool) -> None:
        self.stdout.write(f"Gates: {summarize(gates)}.")
        for gate in failures_first(gates):
            self.stdout.write(describe(gate))
        self.stdout.write(f"{done}{', by force' if forced else ''}.")
        self.sync_tracking()
