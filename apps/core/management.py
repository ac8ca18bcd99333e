"""The base class of the project's management commands, and types of their arguments."""

import argparse
import getpass
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter
from django.db import DatabaseError

from apps.classifier.artifact import ArtifactError
from apps.core.exceptions import ToxicmodError
from apps.core.permissions import SystemActor


class HelpFormatter(argparse.RawDescriptionHelpFormatter, DjangoHelpFormatter):
    """Django's order of options; descriptions and examples keep their line breaks."""


class ProjectCommand(BaseCommand):
    """A management command whose help ends with examples and whose errors are one sentence.

    The exit code is 0 or 1.

    Attributes:
        examples: the example calls, one per line.
        expected_errors: errors to print without a traceback, besides `ToxicmodError` and `ArtifactError`.
    """

    examples: ClassVar[str] = ""
    expected_errors: ClassVar[tuple[type[Exception], ...]] = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        epilog = f"examples:\n{self.examples}" if self.examples else None
        return super().create_parser(
            prog_name, subcommand, formatter_class=HelpFormatter, epilog=epilog, **kwargs
        )

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            super().run_from_argv(argv)
        except SystemExit as stop:
            # argparse exits with 2 after wrong arguments.
            sys.exit(1 if stop.code == 2 else stop.code)

    def execute(self, *args: Any, **options: Any) -> str | None:
        expected_errors: tuple[type[Exception], ...] = (ToxicmodError, ArtifactError, *self.expected_errors)
        try:
            return super().execute(*args, **options)
        except expected_errors as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(
                f"The database reported an error ({error}). Check that it is running and run migrate."
            ) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted.") from None

    def warn(self, message: str) -> None:
        """Print a warning."""
        self.stderr.write(self.style.WARNING(message))


def parse_datetime(text: str) -> datetime:
    """Return a date or time in ISO 8601, by default in UTC. It is the `type` of an argument.

    Raises:
        ArgumentTypeError: the text is neither.
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("write YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SSZ") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def number_from(minimum: float, maximum: float) -> Callable[[str], float]:
    """Return the `type` of an argument that is a number of the same type as the limits."""

    def parse(text: str) -> float:
        try:
            number = type(minimum)(text)
        except ValueError:
            number = None
        if number is None or not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(f"enter a number from {minimum:,} to {maximum:,}")
        return number

    return parse


def get_operator() -> SystemActor:
    """Return the account that runs the command as an actor."""
    try:
        return SystemActor(getpass.getuser())
    except (KeyError, OSError):
        return SystemActor("command line")
