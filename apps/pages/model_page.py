"""Content of the model page: metrics, bias by group, history of versions, and the model card."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import get_language_info
from markdown_it import MarkdownIt

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.moderation.models import Policy
from apps.moderation.triage import apply_policy
from apps.pages.results import NAMES, VERDICTS
from apps.registry.models import Canary, ModelVersion, Promotion

# Inserted into a harmless sentence: what the group's name alone adds to the score is the model's bias.
GROUPS = (
    "tall", "kind", "Christian", "Jewish", "Muslim", "atheist", "Black", "white", "Asian", "gay", "straight",
    "lesbian", "transgender", "female", "male", "deaf", "blind", "old", "young",
)  # fmt: skip
# A table that is wider than the screen scrolls on its own, also with the keyboard.
_TABLE_OPEN = '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>'


@dataclass(frozen=True)
class MetricRow:
    """Metrics of one label, each from 0 to 1, or None if undefined."""

    name: str
    threshold: float | None
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class GroupScore:
    """The highest score of a harmless sentence that names a group, and the policy's outcome for it."""

    group: str
    label: str
    probability: float
    outcome: str


@dataclass(frozen=True)
class LanguageRow:
    """A language besides English, its state, and its figures for `toxic` if it was measured."""

    name: str
    state: str
    roc_auc: float | None
    ece: float | None


@dataclass
class History:
    """When a version was in use. The reasons are not shown: staff write them for staff.

    Attributes:
        served: its promotions, each with the end of that time as champion or None for the current champion.
        canaries: times at which it served a fraction of the requests as canary.
    """

    version: ModelVersion
    served: list[tuple[Promotion, datetime | None]] = field(default_factory=list)
    canaries: list[Canary] = field(default_factory=list)


def metric_rows(version: ModelVersion) -> list[MetricRow]:
    """Return the metrics by label, in the order of `LABELS`; empty if the version was not evaluated."""
    return [
        MetricRow(NAMES[label], version.thresholds.get(label), version.metrics[label])
        for label in LABELS
        if isinstance(version.metrics.get(label), dict)
    ]


def group_scores(scorer: Scorer, policy: Policy | None) -> list[GroupScore]:
    """Score “I am a … person.” for each group; return the highest label of each, highest score first."""
    sentences = [f"I am {'an' if group[0].lower() in 'aeo' else 'a'} {group} person." for group in GROUPS]
    rows = []
    for group, scores in zip(GROUPS, scorer.score_many(sentences, threads=1).tolist(), strict=True):
        probabilities = dict(zip(LABELS, scores, strict=True))
        label = max(probabilities, key=lambda name: probabilities[name])
        outcome = (
            VERDICTS[apply_policy(probabilities=probabilities, policy=policy).outcome][1] if policy else ""
        )
        rows.append(GroupScore(group, NAMES[label], probabilities[label], outcome))
    return sorted(rows, key=lambda row: -row.probability)


def language_rows(scorer: Scorer) -> list[LanguageRow]:
    """Return the languages that the encoder reads, the best first, and those without figures at the end."""
    rows = [
        LanguageRow(_language_name(code), metrics["state"], metrics.get("roc_auc"), metrics.get("ece"))
        for code, metrics in scorer.other_languages.items()
    ]
    return sorted(rows, key=lambda row: (-(row.roc_auc or 0.0), row.name))


def _language_name(code: str) -> str:
    # Django names variants of Chinese only.
    return "Chinese" if code == "zh" else get_language_info(code)["name"]


def histories() -> list[History]:
    """Return the history of every version, newest first."""
    versions = ModelVersion.objects.defer("manifest", "metrics", "card")
    by_version = {version.pk: History(version) for version in versions}
    promotions = list(Promotion.objects.order_by("created_at", "pk"))
    ends: list[Any] = [promotion.created_at for promotion in promotions[1:]]
    for promotion, end in zip(promotions, [*ends, None], strict=True):
        by_version[promotion.version_id].served.append((promotion, end))
    for canary in Canary.objects.select_related("end").order_by("created_at", "pk"):
        by_version[canary.version_id].canaries.append(canary)
    return list(by_version.values())


def card_html(markdown: str) -> SafeString:
    """Return a model card as HTML. Raw HTML in it is escaped, and unsafe links are not rendered.

    Its headings move one level down because the page has a first-level heading already.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    parser.add_render_rule("table_open", lambda *_: _TABLE_OPEN)
    parser.add_render_rule("table_close", lambda *_: "</table></div>")
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"
    return mark_safe(parser.renderer.render(tokens, parser.options, {}))
