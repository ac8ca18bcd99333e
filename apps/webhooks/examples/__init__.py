"""Receivers that verify webhooks, in three languages. The console shows them, and a test runs each."""

from functools import cache
from pathlib import Path

_FILES = {"Python": "receiver.py", "Node.js": "receiver.mjs", "PHP": "receiver.php"}
FOLDER = Path(__file__).parent


@cache
def examples() -> list[tuple[str, str]]:
    """Return each language with its example's source."""
    return [(language, (FOLDER / name).read_text()) for language, name in _FILES.items()]
