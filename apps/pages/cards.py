"""What the model page shows of a version: figures, history, and its card."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.moderation.models import Policy
from apps.moderation.triage import triage
from apps.pages.results import NAMES, VERDICTS
from apps.registry.models import Canary, ModelVersion, Promotion

# Put into a harmless sentence: what the group's name alone does to the score is the model's bias.
GROUPS = (
    "tall", "kind", "Christian", "Jewish", "Muslim", "atheist", "Black", "white", "Asian", "gay", "straight",
    "lesbian", "transgender", "female", "male", "deaf", "blind", "old", "young",
)  # fmt: skip
# A table that is wider than a phone scrolls by itself, and by keyboard.
TABLE_BEGIN = '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>'


@dataclass(frozen=True)
class MetricRow:
    """One label's figures, each from 0 to 1 or None where it is not defined."""

    name: str
    threshold: float | None
    figures: dict[str, float | None]


@dataclass(frozen=True)
class GroupFigure:
    """The highest score of a harmless sentence that names a group, and what the policy makes of it."""

    group: str
    label: str
    probability: float
    outcome: str


@dataclass
class History:
    """A version and when it was in service: pairs of begin and end, the end None for today.

    `canaries` are the times at which it served a share of the comments on trial.
    """

    version: ModelVersion
    served: list[tuple[datetime, datetime | None]] = field(default_factory=list)
    canaries: list[Canary] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def metric_rows(version: ModelVersion) -> list[MetricRow]:
    """Return the figures by label, in the order of `LABELS`; none where the version was not measured."""
    return [
        MetricRow(NAMES[label], version.thresholds.get(label), version.metrics[label])
        for label in LABELS
        if isinstance(version.metrics.get(label), dict)
    ]


def group_figures(scorer: Scorer, policy: Policy | None) -> list[GroupFigure]:
    """Score “I am a … person.” for each group: the label that scores highest, the highest group first."""
    sentences = [f"I am {'an' if group[0].lower() in 'aeo' else 'a'} {group} person." for group in GROUPS]
    figures = []
    for group, scores in zip(GROUPS, scorer.score_many(sentences, threads=1).tolist(), strict=True):
        probabilities = dict(zip(LABELS, scores, strict=True))
        label = max(probabilities, key=lambda name: probabilities[name])
        outcome = VERDICTS[triage(probabilities=probabilities, policy=policy).outcome][1] if policy else ""
        figures.append(GroupFigure(group, NAMES[label], probabilities[label], outcome))
    return sorted(figures, key=lambda figure: -figure.probability)


def histories() -> list[History]:
    """Return every version, newest first, with the times at which it was in service."""
    versions = ModelVersion.objects.defer("manifest", "metrics", "card")
    found = {version.pk: History(version) for version in versions}
    promotions = list(Promotion.objects.order_by("created_at", "pk"))
    ends: list[Any] = [promotion.created_at for promotion in promotions[1:]]
    for promotion, end in zip(promotions, [*ends, None], strict=True):
        history = found[promotion.version_id]
        history.served.append((promotion.created_at, end))
        history.reasons.append(promotion.reason)
    for canary in Canary.objects.select_related("end").order_by("created_at", "pk"):
        found[canary.version_id].canaries.append(canary)
    return list(found.values())


def card_html(markdown: str) -> SafeString:
    """Render a model card. HTML in it is shown as text, and links can only lead to web pages.

    The page has its own first heading, so the card's headings are one level lower.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    parser.add_render_rule("table_open", lambda *_: TABLE_BEGIN)
    parser.add_render_rule("table_close", lambda *_: "</table></div>")
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"
    return mark_safe(parser.renderer.render(tokens, parser.options, {}))
