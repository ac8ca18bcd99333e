"""`manage.py promote_model`: make a model version the champion."""

from typing import Any

from django.core.management.base import CommandParser

from apps.core.management import get_operator, number_from
from apps.registry.gates import Gate, describe, failures_first, summarize
from apps.registry.management.base import VERSION_HELP, ModelCommand, find_version
from apps.training import actions


class Command(ModelCommand):
    help = """Make a model version the champion. Every process serves it within five seconds,
without a restart.

It must pass its gates, measured on the held-out rows of the newest data set: mean ROC-AUC, and each
label's ROC-AUC and PR-AUC against the champion's; calibration; the worst group's BPSN and BNSP AUC;
obfuscated spelling; time per comment; and the fraction of last week's comments of which a label
crosses its threshold. The actor, the reason and the gates are stored with the promotion."""
    examples = """  manage.py promote_model challenger --reason "Learned from October's decisions"
  manage.py promote_model challenger --canary 0.05 --reason "Try it on a twentieth of the requests first"
  manage.py promote_model v3 --reason "Catches the new slur; worth the loss elsewhere" --force"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("version", help=VERSION_HELP)
        parser.add_argument("--reason", required=True, help="The reason, which is stored with the promotion.")
        parser.add_argument(
            "--force", action="store_true", help="Promote although a gate fails. This is recorded."
        )

        parser.add_argument(
            "--canary",
            type=number_from(0.0, 1.0),
            metavar="SHARE",
            help="Let it serve this share of the requests first. After enough comments it becomes the "
            "champion automatically, unless it was forced. It is rolled back if error rate, latency or flag "
            "rate violate a guardrail.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        version = find_version(options["version"])
        actions.measure_gates(version=version)
        arguments: dict[str, Any] = {
            "version": version,
            "reason": options["reason"],
            "actor": get_operator(),
            "force": options["force"],
        }
        if options["canary"] is not None:
            canary = actions.start_canary(share=options["canary"], **arguments)
            self._report(canary.gates, f"{version} serves {canary.share:.1%} of the requests", canary.forced)
            return
        promotion = actions.promote(**arguments)
        replaced = f", in place of {promotion.replaced}" if promotion.replaced else ""
        self._report(promotion.gates, f"{version} is the champion{replaced}", promotion.forced)

    def _report(self, gates: list[Gate], result: str, forced: bool) -> None:
        self.stdout.write(f"Gates: {summarize(gates)}.")
        for gate in failures_first(gates):
            self.stdout.write(describe(gate))
        self.stdout.write(f"{result}{', by force' if forced else ''}.")
        self.sync_tracking()
