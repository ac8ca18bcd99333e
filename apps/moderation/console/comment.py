"""A comment as safe HTML, with the words that raise the score of the item's label highlighted."""

import math
import re
import unicodedata
from dataclasses import dataclass

from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from apps.classifier.labels import LABELS
from apps.moderation.models import QueueItem
from apps.registry import serving
from apps.registry.exceptions import NoModelError

MAX_TERMS = 9
MIN_CONTRIBUTION = 0.15  # as a fraction of the strongest term's contribution
STRONG, SOME = math.log(5), math.log(2)  # contributions from which a term's effect has this name
# Control characters that hide, reorder or erase other characters. Joiners and combining marks, which
# ordinary text needs, are not among them.
_UNSAFE_CHARACTERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u202a-\u202e\u2060-\u206f\ufeff]"
)


@dataclass(frozen=True)
class HighlightedTerm:
    """A term that raises the score of the item's label.

    Attributes:
        number: position among the highlighted terms, in reading order.
        contribution: to the label's logit.
    """

    number: int
    text: str
    contribution: float

    @property
    def strength(self) -> str:
        """The effect in words: it has no unit that moderators need to know."""
        if self.contribution >= STRONG:
            return "strong"
        return "some" if self.contribution >= SOME else "weak"


@dataclass(frozen=True)
class RenderedComment:
    """A comment as HTML.

    Attributes:
        explained_by: the number of the model whose terms are highlighted, or None.
    """

    html: SafeString
    terms: list[HighlightedTerm]
    explained_by: int | None


def escape_text(text: str) -> SafeString:
    """Return text as escaped HTML in which the code points of unsafe characters replace them."""
    parts, end = [], 0
    for match in _UNSAFE_CHARACTERS.finditer(text):
        name = unicodedata.name(match[0], "CONTROL CHARACTER")
        code_point = f"U+{ord(match[0]):04X}"
        token = format_html('<span class="unsafe-character" title="{}">{}</span>', name, code_point)
        parts += [escape(text[end : match.start()]), token]
        end = match.end()
    return mark_safe("".join([*parts, escape(text[end:])]))


def render(item: QueueItem) -> RenderedComment:
    """Return the comment. Terms are not highlighted for a blind review or a language without scores."""
    text = item.submission.text
    if item.is_blind or item.is_language_unscored:
        return RenderedComment(escape_text(text), [], None)
    try:
        served = serving.current()
    except NoModelError:
        return RenderedComment(escape_text(text), [], None)
    label = LABELS.index(item.label)
    contributions = [
        (span, float(span.contributions[label]))
        for span in served.scorer.explain(text).spans
        if span.contributions[label] > 0
    ]
    strongest = sorted(contributions, key=lambda pair: -pair[1])[:MAX_TERMS]
    minimum = MIN_CONTRIBUTION * strongest[0][1] if strongest else 0.0
    highlighted = sorted((pair for pair in strongest if pair[1] >= minimum), key=lambda pair: pair[0].begin)
    parts, terms, end = [], [], 0
    for number, (span, contribution) in enumerate(highlighted, 1):
        term = text[span.begin : span.end]
        terms.append(HighlightedTerm(number, term[:60], contribution))
        mark = format_html("<mark>{}<sup>{}</sup></mark>", escape_text(term), number)
        parts += [escape_text(text[end : span.begin]), mark]
        end = span.end
    html = mark_safe("".join([*parts, escape_text(text[end:])]))
    return RenderedComment(html, terms, served.number)
