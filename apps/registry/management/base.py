"""The base of the project's commands: help that teaches, refusals in one sentence, exit code 0 or 1."""

import argparse
import getpass
import sys
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter
from django.db import DatabaseError

from apps.classifier.artifact import ArtifactError
from apps.registry import tracking
from apps.registry.actions import RegistryError
from apps.registry.models import ModelVersion

VERSION_HELP = "The model version: a number (3 or v3), or champion, challenger or previous."


class HelpFormatter(argparse.RawDescriptionHelpFormatter, DjangoHelpFormatter):
    """Django's order of options; descriptions and examples as they are written."""


class Command(BaseCommand):
    """A command whose `examples` end its help, and whose `refusals` are told in one sentence, exit code 1."""

    examples: ClassVar[str] = ""
    refusals: ClassVar[tuple[type[Exception], ...]] = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        epilog = f"examples:\n{self.examples}" if self.examples else None
        return super().create_parser(
            prog_name, subcommand, formatter_class=HelpFormatter, epilog=epilog, **kwargs
        )

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            super().run_from_argv(argv)
        except SystemExit as stop:
            # argparse says 2 to wrong arguments.
            sys.exit(1 if stop.code == 2 else stop.code)

    def execute(self, *args: Any, **options: Any) -> str | None:
        refusals: tuple[type[Exception], ...] = (RegistryError, ArtifactError, *self.refusals)
        try:
            return super().execute(*args, **options)
        except refusals as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(
                f"The database refused ({error}): is it up, and did you run migrate?"
            ) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted.") from None

    def sync_tracking(self) -> None:
        """Bring MLflow's aliases in step; an outage is only a warning, the next command makes up for it."""
        try:
            tracking.sync()
        except tracking.TrackingError as error:
            self.warn(
                f"{error}. Its aliases will be brought in step by the next training, promotion or rollback."
            )

    def warn(self, message: str) -> None:
        """Print a warning."""
        self.stderr.write(self.style.WARNING(message))


def find_version(name: str) -> ModelVersion:
    """Return the version of that number or alias.

    Raises:
        CommandError: there is none.
    """
    version = ModelVersion.objects.named(name)
    if version is None:
        raise CommandError(f"There is no model version {name}: see `manage.py list_models`.")
    return version


def moment(text: str) -> datetime:
    """Return a day or a moment of ISO 8601, by default in UTC: the type of an argument.

    Raises:
        ArgumentTypeError: it is neither.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("write YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SSZ") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def operator() -> str:
    """Return who runs the command, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "command line"
