"""Filters of the console's templates."""

from datetime import datetime

from django import template
from django.utils import timezone

from apps.moderation.console import comment

register = template.Library()


@register.filter
def age(moment: datetime | None) -> str:
    """Return how long ago a moment is, in its largest unit: `40 s`, `5 min`, `3 h`, `2 d`."""
    if moment is None:
        return ""
    seconds = max((timezone.now() - moment).total_seconds(), 0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


@register.filter
def percent(share: float | None, digits: int = 0) -> str:
    """Return a share from 0 to 1 as a percentage, `–` where there is none."""
    return "–" if share is None else f"{share * 100:.{digits}f} %"


@register.filter
def svg(share: float) -> str:
    """Return a share as the number of a percentage, as SVG wants it."""
    return f"{share * 100:.2f}"


@register.filter
def harmless(value: object) -> str:
    """Return hostile text as HTML: escaped, and with characters that play tricks named."""
    return comment.plain("" if value is None else str(value))


@register.filter
def plus(one: float, other: float) -> float:
    """Return the sum."""
    return one + other


@register.filter
def minus(one: float, other: float) -> float:
    """Return the difference."""
    return one - other


@register.filter
def words(label: str) -> str:
    """Return a label as words: `severe toxic`."""
    return label.replace("_", " ")


@register.filter
def thousands(number: float) -> str:
    """Return a whole number with its thousands set apart."""
    return f"{number:,.0f}"
