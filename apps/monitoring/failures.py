"""How failures of background work are described where people read them: dashboard, alerts, admin lists."""

import traceback
from pathlib import Path

from django.conf import settings

LENGTH = 300


def describe(error: BaseException) -> str:
    """Return what failed, at most 300 characters.

    Messages of this project's own exceptions are kept. Those of others may quote a comment, so only the kind
    of the exception and the last line of this project that it passed through are named.
    """
    if type(error).__module__.startswith("apps."):
        return str(error)[:LENGTH] or type(error).__name__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(settings.BASE_DIR) and "site-packages" not in path.parts:
            where = f"{path.relative_to(settings.BASE_DIR)}, line {frame.lineno}"
            return f"{type(error).__name__} in {where}"[:LENGTH]
    return type(error).__name__[:LENGTH]
