"""Functions that create rows for tests: users, comments, decisions, rollups, model versions, data sets."""

import csv
import hashlib
import io
import json
import random
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from django.db import connection
from django.utils import timezone

from apps.accounts.models import CommunityAccess, User
from apps.classifier import languages
from apps.classifier.artifact import Artifact
from apps.classifier.labels import LABELS
from apps.classifier.normalise import normalise
from apps.classifier.scorer import Explanation, ScoredTexts, Span
from apps.connectors.actions import save_connection
from apps.connectors.models import Connection, PlatformAction, ReceivedComment
from apps.core.permissions import SYSTEM, SystemActor
from apps.mirror.models import ChangeLogEntry, MirrorState
from apps.moderation import actions as moderation
from apps.moderation.models import Decision, QueueItem
from apps.monitoring.models import Alert, AlertRule, Baseline, DomainCheck, HourlyRollup, RequestMinute
from apps.monitoring.rollups.hours import start_of_hour
from apps.predictions.models import Prediction
from apps.registry import actions as registry
from apps.registry.models import Alias, ModelVersion, Promotion
from apps.training import actions as training
from apps.training.jigsaw import COLUMNS
from apps.training.models import ShadowScore

ROLES = {"v": "viewer", "m": "moderator", "l": "lead", "e": "engineer", "a": "administrator"}
AUTOMATIC_REMOVAL = {
    "threat": 0.95,
    "identity_hate": 0.95,
    "severe_toxic": 0.95,
    "insult": 0.98,
    "obscene": 0.99,
    "toxic": 0.99,
}
HOSTILE_TEXT = (
    'insult=0.7 <script>alert(1)</script> "><img src=x onerror=alert(2)> \u202eevil\u202c {{ 7|add:1 }}'
)
_PLAIN_WORDS = ("the", "page", "was", "changed", "last", "week", "and", "reads", "well", "to", "me", "thanks")
_TOXIC_WORDS = dict(zip(LABELS, ("stupid", "vile", "damn", "kill", "idiot", "foreigners"), strict=True))


class StubScorer:
    """A scorer that takes the scores from the text: `threat=0.9 insult=0.5 other words`."""

    thresholds = np.full(6, 0.5)
    other_languages: dict[str, Any] = {}

    def score(self, text: str) -> np.ndarray:
        scores = dict(word.split("=", 1) for word in text.split() if word.split("=")[0] in LABELS)
        return np.array([float(scores.get(label, 0.01)) for label in LABELS])

    def score_many(self, texts: Sequence[str], threads: int | None = None) -> np.ndarray:
        return np.array([self.score(text) for text in texts])

    def can_score(self, text: str) -> bool:
        return languages.detect(text).is_supported

    def flag(self, texts: Sequence[str]) -> np.ndarray:
        return np.any(self.score_many(texts) >= self.thresholds, axis=1)

    def rate(self, texts: Sequence[str], threads: int | None = None) -> ScoredTexts:
        return ScoredTexts(self.score_many(texts), np.zeros(len(texts), bool))

    def explain(self, text: str) -> Explanation:
        spans = [
            Span(match.start(), match.end(), np.full(6, float(len(match[0]))))
            for match in re.finditer(r"\S+", text)
        ]
        return Explanation(np.zeros(6), np.zeros(6), np.zeros(6), spans)

    def text_key(self, text: str) -> bytes:
        return hashlib.sha256(normalise(text)[0].encode("utf-8", "surrogatepass")).digest()


def restrict_to_communities(user: User, *communities: str) -> None:
    """Let the user see only these communities."""
    User.objects.filter(pk=user.pk).update(all_communities=False)
    user.all_communities = False
    user.__dict__.pop("communities", None)
    CommunityAccess.objects.filter(user=user).delete()
    CommunityAccess.objects.bulk_create(
        CommunityAccess(user=user, community=community) for community in communities
    )


def create_queue_item(text: str, **options: Any) -> QueueItem:
    """Send a comment to `moderate` and return its queue item."""
    options.setdefault("author_ref", "troll")
    answer = moderation.moderate(text=text, **options)
    assert answer.item is not None
    return answer.item


def decide_item(
    item: QueueItem, user: User, action: str = Decision.Action.REJECT, **options: Any
) -> moderation.DecisionResult:
    """Claim an item and decide it; a rejection names the rule of the item unless `options` name another."""
    held = moderation.claim(item_id=item.pk, user=user)
    if action == Decision.Action.REJECT:
        options.setdefault("rule", held.default_rule())
    return moderation.decide(
        item_id=item.pk, version=held.version, user=user, action=Decision.Action(action), **options
    )


def connect_platform(decision: Decision, **fields: Any) -> Connection:
    """Return a connection through which the comment came, was flagged, and gets the decision."""
    platform = Connection(platform="discourse", community=decision.submission.community, **fields)
    save_connection(actor=SYSTEM, connection=platform, secret=str(platform.pk), token=str(platform.pk))
    comment = ReceivedComment.objects.create(submission=decision.submission, connection=platform)
    PlatformAction.objects.create(comment=comment, kind=PlatformAction.Kind.FLAG)
    PlatformAction.objects.create(comment=comment, decision=decision, kind=decision.action)
    return platform


def create_prediction(version: ModelVersion, at: datetime, **fields: Any) -> Prediction:
    """Create a prediction with low scores; `fields` overrides scores and fields."""
    scores = dict.fromkeys(LABELS, 0.01) | {label: fields.pop(label) for label in LABELS if label in fields}
    return Prediction.objects.create(
        **{
            "created_at": at,
            "source": Prediction.Source.API,
            "text": "a kind word",
            "text_hash": "0" * 64,
            "label_mask": 0,
            "model_version": version,
            "latency_us": 100,
            **scores,
            **fields,
        }
    )


def rollup_rows() -> list[dict[str, Any]]:
    """Return the stored columns of every hourly rollup, in the order of creation."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM monitoring_hourlyrollup ORDER BY id")
        columns = [column[0] for column in cursor.description]
        return [
            {
                name: bytes(value) if isinstance(value, memoryview) else value
                for name, value in zip(columns, row, strict=True)
            }
            for row in cursor.fetchall()
        ]


def create_rollups(version: ModelVersion, days: int = 3) -> None:
    """Create equal rollups for each hour of some days; community b has twice as many comments as a."""
    hour = start_of_hour(timezone.now())
    rows = []
    for number in range(24 * days):
        for community, weight in (("a", 1), ("b", 2), (None, 3)):
            scores = np.zeros((6, 50), int)
            scores[:, 0], scores[:, 40] = 90 * weight, 10 * weight
            confusion = np.zeros((6, 10, 2, 2, 2))
            confusion[:, 8, 1, 1], confusion[:, 8, 1, 0] = 8 * weight, 2 * weight
            confusion[:, 1, 0, 0] = 10 * weight
            rows.append(
                HourlyRollup(
                    hour=hour - timedelta(hours=number),
                    version=version,
                    source="api",
                    overall=community is None,
                    community=community or "",
                    requests=100 * weight,
                    any_flagged=10 * weight,
                    sampled=20 * weight,
                    queued=5 * weight,
                    approved=2 * weight,
                    rejected=2 * weight,
                    feedback_right=3,
                    feedback_wrong=1,
                    flagged=np.full(6, 10 * weight),
                    scores=scores,
                    latency=np.eye(60, dtype=int)[20] * 100 * weight,
                    lengths=np.eye(30, dtype=int)[12] * 100 * weight,
                    ngrams=np.array([1000, 100]) * weight,
                    identity_groups=np.full((14, 2), [4, 1]) * weight,
                    outcomes={"approve": 90 * weight, "reject": 5 * weight, "human_review": 5 * weight},
                    decision_times=np.eye(35, dtype=int)[15] * 4 * weight,
                    moderator_confusion=confusion,
                    feedback_confusion=confusion,
                )
            )
    HourlyRollup.objects.bulk_create(rows)
    RequestMinute.objects.create(
        minute=timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=2),
        source="api",
        process="a:1",
        requests=50,
        client_errors=1,
        errors=2,
        latency=np.eye(60, dtype=int)[30] * 50,
    )
    Baseline.objects.create(
        version=version,
        dataset="made-up v1",
        rows=1000,
        scores=np.full((6, 50), 20),
        lengths=np.full(30, 30),
        ngrams=[1000, 50],
        bias={"gay": {"subgroup": 0.9, "bpsn": 0.8, "bnsp": 0.95}},
    )


def create_monitoring_records(champion: ModelVersion) -> None:
    """Create what the dashboard reads besides rollups: shadow scores, drift, an alert, the mirror's lag."""
    challenger = ModelVersion.objects.create(
        number=champion.number + 1, alias=Alias.CHALLENGER, recipe="two_level", sha256="1" * 64, manifest={}
    )
    scores = dict.fromkeys(LABELS, 0.1)
    for number in range(20):
        prediction = Prediction.objects.create(
            source="api",
            text="kind",
            label_mask=int(number < 8),
            model_version=champion,
            latency_us=1,
            **scores,
        )
        ShadowScore.objects.create(
            prediction=prediction, version=challenger, label_mask=int(number < 4), **scores
        )
    DomainCheck.objects.create(
        version=champion, baseline_name="rows of made-up v1", comments=2_000, auc=0.71, low=0.68, high=0.74,
        phrases=[["no cap", 0.001, 0.04, 9.0], ["skibidi", 0.0, 0.02, 7.0], ["regards", 0.03, 0.01, -5.0]],
    )  # fmt: skip
    rule = AlertRule.objects.create(name="Calls fail", metric=AlertRule.Metric.ERROR_RATE, threshold=0.01)
    Alert.objects.create(
        rule=rule, metric=rule.metric, threshold=0.01, value=0.04, low=0.02, high=0.06, window_hours=1
    )
    MirrorState.objects.create()
    ChangeLogEntry.objects.create(kind="prediction", key="1", created_at=timezone.now() - timedelta(hours=2))
    promoted_at = timezone.now() - timedelta(hours=10)
    Promotion.objects.create(
        kind="promote", version=champion, replaced=champion, actor="a", reason="b", created_at=promoted_at
    )


def register_copy(champion: ModelVersion, name: str = "another") -> ModelVersion:
    """Register the model of the champion again, under another name."""
    artifact = champion.modelartifact.artifact()
    manifest = json.dumps(json.loads(artifact.manifest) | {"name": name}).encode()
    return registry.register_version(
        artifact=Artifact(manifest, artifact.weights), recipe="two_level", metrics=champion.metrics
    )


def promote_version(version: ModelVersion, **options: Any) -> Promotion:
    """Promote a version without gates."""
    return registry.promote(version=version, actor=SystemActor("ann"), **({"reason": "better"} | options))


def labeled_rows(count: int, seed: int = 0, share: float = 0.15) -> list[list[str]]:
    """Return rows in the order of `COLUMNS`, in which one word stands for each label."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        labels = [label for label in LABELS if chance.random() < share]
        words = chance.choices(_PLAIN_WORDS, k=8) + [_TOXIC_WORDS[label] for label in labels]
        chance.shuffle(words)
        flags = [str(int(label in labels)) for label in LABELS]
        rows.append([f"{seed}-{number}", f"{' '.join(words)} {number}", *flags])
    return rows


def csv_bytes(rows: Iterable[Iterable[str]], header: Iterable[str] = COLUMNS) -> bytes:
    """Return rows as a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def measure_and_promote(*, version: ModelVersion, **options: Any) -> Promotion:
    """Measure the gates of a version and promote it."""
    training.measure_gates(version=version)
    return training.promote(version=version, **options)
