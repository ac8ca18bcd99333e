"""Numbers and SVG images of the pages. Widths are SVG attributes because the CSP forbids inline styles."""

from collections.abc import Iterable

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from apps.core import text
from apps.pages import results

register = template.Library()

_ICONS = {
    "approve": "M5 12.5l4.5 4.5L19 7.5",
    "review": "M12 6.5v6l4 2.5",
    "reject": "M7 7l10 10M17 7L7 17",
    "none": "M7.5 12h.01M12 12h.01M16.5 12h.01",
}


register.filter(text.percent)


@register.filter
def exact_percent(fraction: float | None) -> str:
    """Return a fraction as in `results.exact_percent`, or a dash for None."""
    return "–" if fraction is None else results.exact_percent(fraction)


@register.filter
def percentage_points(error: float) -> str:
    """Return an error from 0 to 1 in percentage points."""
    return f"{100 * error:.2g} points"


@register.filter
def decimal(value: float | None, digits: int) -> str:
    """Return a number with a fixed number of decimal places, or a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


@register.filter
def is_list(value: object) -> bool:
    """Return True if the value is a list."""
    return isinstance(value, list)


@register.simple_tag
def icon(state: str) -> SafeString:
    """Return the icon of a verdict's state, or of `none`."""
    return format_html(
        '<svg class="icon" viewBox="0 0 24 24" width="28" height="28" aria-hidden="true">'
        '<circle cx="12" cy="12" r="10.5"/><path d="{}"/></svg>',
        _ICONS[state],
    )


@register.simple_tag
def highlight(segment: results.Segment, number: int) -> SafeString:
    """Return a highlighted segment with a tooltip that shows the effects of the term."""
    return format_html(
        '<mark class="l{0}" tabindex="0" aria-describedby="tip{1}">{2}'
        '<span class="tip" role="tooltip" id="tip{1}" dir="ltr">{3}{4}</span></mark>',
        segment.level,
        number,
        segment.text,
        format_html('<span class="factor">{}</span> ', "all occurrences together")
        if segment.count > 1
        else "",
        factor_list(segment.factors),
    )


@register.simple_tag
def factor_list(factors: Iterable[results.Factor]) -> SafeString:
    """Return the effects of a term on labels."""
    rows = ((factor.name, factor.effect) for factor in factors)
    return format_html_join(" ", '<span class="factor">{} <b>{}</b></span>', rows)


@register.simple_tag
def meter(bar: results.LabelBar) -> SafeString:
    """Return a bar with a tick at each threshold."""
    ticks = format_html_join(
        "",
        '<line class="{}" x1="{}%" x2="{}%" y1="0" y2="16"/>',
        (
            (name, f"{100 * value:.2f}", f"{100 * value:.2f}")
            for name, value in (("review", bar.review_from), ("reject", bar.reject_from))
            if value is not None
        ),
    )
    return format_html(
        '<svg class="meter" height="16" aria-hidden="true">'
        '<rect class="track" y="3" width="100%" height="10" rx="5"/>'
        '<rect class="fill" y="3" width="{}%" height="10" rx="5"/>{}</svg>',
        f"{100 * (bar.probability or 0):.2f}",
        ticks,
    )


@register.simple_tag
def small_meter(probability: float) -> SafeString:
    """Return a bar without ticks."""
    return format_html(
        '<svg class="meter" height="8" aria-hidden="true">'
        '<rect class="track" width="100%" height="8" rx="4"/>'
        '<rect class="fill" width="{}%" height="8" rx="4"/></svg>',
        f"{100 * probability:.2f}",
    )
