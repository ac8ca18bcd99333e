"""Template filters of the console."""

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.safestring import SafeString

from apps.core.text import format_duration, name_community
from apps.moderation.console import comment

register = template.Library()
register.filter(name_community)


@register.filter
def age(moment: datetime | None) -> str:
    """Return the time since a moment in its largest unit, see `format_duration`."""
    return "" if moment is None else format_duration(max((timezone.now() - moment).total_seconds(), 0))


@register.filter
def percent(fraction: float | None, digits: int = 0) -> str:
    """Return a fraction from 0 to 1 as a percentage, or `–` for None."""
    return "–" if fraction is None else f"{fraction * 100:.{digits}f}%"


@register.filter
def svg_percent(fraction: float) -> str:
    """Return a fraction as the number in an SVG percentage, which has a decimal point in every locale."""
    return f"{fraction * 100:.2f}"


@register.filter
def escape_text(value: object) -> SafeString:
    """Return untrusted text as HTML; see `apps.moderation.console.comment.escape_text`."""
    return comment.escape_text("" if value is None else str(value))


@register.filter
def plus(augend: float, addend: float) -> float:
    """Return the sum. Django's `add` truncates to integers."""
    return augend + addend


@register.filter
def minus(minuend: float, subtrahend: float) -> float:
    """Return the difference."""
    return minuend - subtrahend


@register.filter
def label_text(label: str) -> str:
    """Return a label's name with spaces: `severe toxic`."""
    return label.replace("_", " ")


@register.filter
def thousands(number: float) -> str:
    """Return a whole number with thousands separators."""
    return f"{number:,.0f}"
