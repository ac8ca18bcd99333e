"""A hostile comment as harmless HTML, with the words that tell underlined and numbered."""

import re
import unicodedata
from dataclasses import dataclass

from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from apps.classifier.labels import LABELS
from apps.moderation.models import QueueItem
from apps.registry import serving
from apps.registry.exceptions import NoModelError

_SHOWN = 9
_LEAST = 0.15  # of the strongest word's contribution: what adds less explains nothing
# Characters that hide, reorder or erase others. Joiners and marks that honest text needs stay as they are.
_TRICKS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u202a-\u202e\u2060-\u206f\ufeff]")


@dataclass(frozen=True)
class Telling:
    """A word that speaks for the item's label; `strength` is its part of the strongest one's contribution."""

    number: int
    text: str
    contribution: float
    strength: float


@dataclass(frozen=True)
class Shown:
    """A comment as it is drawn; `explained_by` is the model that found the words, None where none did."""

    html: SafeString
    telling: list[Telling]
    explained_by: int | None


def plain(text: str) -> SafeString:
    """Return text as HTML in which every character that plays tricks is named instead of obeyed."""
    parts, end = [], 0
    for match in _TRICKS.finditer(text):
        name = unicodedata.name(match[0], "CONTROL CHARACTER")
        token = format_html('<span class="trick" title="{}">{}</span>', name, f"U+{ord(match[0]):04X}")
        parts += [escape(text[end : match.start()]), token]
        end = match.end()
    return mark_safe("".join([*parts, escape(text[end:])]))


def shown(item: QueueItem) -> Shown:
    """Return the item's comment; a blind review gets no marks."""
    text = item.submission.text
    if item.is_blind:
        return Shown(plain(text), [], None)
    try:
        served = serving.current()
    except NoModelError:
        return Shown(plain(text), [], None)
    column = LABELS.index(item.label)
    spans = [
        (span, float(span.contributions[column]))
        for span in served.scorer.explain(text).spans
        if span.contributions[column] > 0
    ]
    strongest = sorted(spans, key=lambda pair: -pair[1])[:_SHOWN]
    top = strongest[0][1] if strongest else 0.0
    kept = sorted((pair for pair in strongest if pair[1] >= _LEAST * top), key=lambda pair: pair[0].begin)
    parts, telling, end = [], [], 0
    for number, (span, contribution) in enumerate(kept, 1):
        word = text[span.begin : span.end]
        telling.append(Telling(number, word[:60], contribution, contribution / top))
        mark = format_html("<mark>{}<sup>{}</sup></mark>", plain(word), number)
        parts += [plain(text[end : span.begin]), mark]
        end = span.end
    html = mark_safe("".join([*parts, plain(text[end:])]))
    return Shown(html, telling, served.number)
