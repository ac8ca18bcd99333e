"""Text for sentences, for spreadsheets and for the database."""

import re

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def pluralize(count: int, singular: str, plural: str = "") -> str:
    """Return the count with the singular or the plural, which is by default the singular with an s."""
    return f"1 {singular}" if count == 1 else f"{count:,} {plural or f'{singular}s'}"


def name_community(community: str) -> str:
    """Return a community's name, or `(no community)` for the empty name of comments without a community."""
    return community or "(no community)"


def format_number(value: float | None) -> str:
    """Return a number with four significant digits, or as a whole number from 1,000."""
    if value is None:
        return "–"
    if 0 < abs(value) < 0.0001:
        return "under 0.0001" if value > 0 else "above -0.0001"
    return f"{value:.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def percent(probability: float) -> str:
    """Return a probability as a text that never claims certainty: `under 1%`, `63%`, `over 99%`."""
    if probability < 0.01:
        return "under 1%"
    return "over 99%" if probability > 0.99 else f"{probability:.0%}"


def format_duration(seconds: float | None, digits: int = 0) -> str:
    """Return a duration in its largest unit (`40 s`, `5 min`, `3 h`, `2 d`), or a dash for None.

    Args:
        digits: decimal places; seconds have none.
    """
    if seconds is None:
        return "–"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def escape_formula(cell: object) -> str:
    """Return a cell as text, with an apostrophe before it if a spreadsheet would evaluate it.

    Source: OWASP, CSV injection.
    """
    text = "" if cell is None else str(cell)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text


def is_storable(text: str) -> bool:
    """Return whether PostgreSQL can store and compare the text: it has neither NUL nor lone surrogates."""
    return _UNSTORABLE.search(text) is None
