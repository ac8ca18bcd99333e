"""Descriptions of exceptions for the dashboard, alerts and admin lists."""

import traceback
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError

from apps.core.database import describe_error

MAX_LENGTH = 300


def describe(error: BaseException) -> str:
    """Return a description of an exception, at most 300 characters, that quotes no comment.

    The messages of this project's own exceptions are kept, and those of the database that quote no value.
    Other messages may quote a comment, so they are replaced by the exception's class and the last line of
    this project that it passed through.
    """
    if type(error).__module__.startswith("apps."):
        return str(error)[:MAX_LENGTH] or type(error).__name__
    name = describe_error(error) if isinstance(error, DatabaseError) else type(error).__name__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(settings.BASE_DIR) and "site-packages" not in path.parts:
            location = f"{path.relative_to(settings.BASE_DIR)}, line {frame.lineno}"
            return f"{name} in {location}"[:MAX_LENGTH]
    return name[:MAX_LENGTH]
