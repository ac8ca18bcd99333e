"""Adds predictions and queue items of one month to a PostgreSQL, from real comments."""

import csv
import gzip
import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from django.contrib.auth.models import Group
from django.db import connection, models, transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.accounts.models import User
from apps.classifier.labels import LABELS
from apps.classifier.normalise import normalise
from apps.moderation import triage
from apps.moderation.actions.policies import active_policy
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Author, Decision, Policy, QueueItem, Submission
from apps.moderation.roles import create_roles
from apps.predictions.actions import text_hash
from apps.predictions.models import Prediction, pack_label_rows
from apps.registry import serving

DISTINCT = 20_000
COMMUNITIES = tuple(f"community-{number}" for number in range(20))
AUTHORS = 5_000
MODERATORS = 8
DAYS = 30
OPEN_SHARE = 0.75


def read_comments(path: Path, count: int) -> list[str]:
    """Return the first comments of a CSV file, gzipped or not, with a column `comment_text`.

    Raises:
        ModerationError: the file has no such column or no comments.
    """
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        reader = csv.DictReader(file)
        if "comment_text" not in (reader.fieldnames or ()):
            raise ModerationError(f"{path} has no column comment_text.")
        comments = [row["comment_text"].replace("\0", "") for row in islice(reader, count)]
    if not comments:
        raise ModerationError(f"{path} has no comments.")
    return comments


def _copy(rows: Iterable[models.Model], model: type[models.Model]) -> None:
    """Insert rows with COPY."""
    fields = [field for field in model._meta.concrete_fields if field.column != "id" or model is Prediction]
    columns = ", ".join(connection.ops.quote_name(str(field.column)) for field in fields)
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY {connection.ops.quote_name(model._meta.db_table)} ({columns}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(
                [field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields]
            )


def _moderators() -> list[User]:
    create_roles()
    users = []
    for number in range(1, MODERATORS + 1):
        user, _ = User.objects.get_or_create(
            username=f"bench-{number}", defaults={"is_staff": True, "all_communities": True}
        )
        user.groups.add(Group.objects.get(name="lead"))
        users.append(user)
    return users


@transaction.atomic
def seed(*, path: Path, predictions: int, items: int, seed: int = 0) -> None:
    """Add predictions and queue items from the file's comments to a PostgreSQL.

    A quarter of the items is decided. For each item, another comment is approved automatically.

    Raises:
        ModerationError: the database is not PostgreSQL, there is no policy, or there are too few predictions.
        NoModelError: no model is in service.
    """
    if connection.vendor != "postgresql":
        raise ModerationError("The benchmark needs PostgreSQL: set DATABASE_URL.")
    if predictions < 2 * items:
        raise ModerationError("There must be at least twice as many predictions as items.")
    policy = active_policy("")
    chance = random.Random(seed)
    served = serving.current()
    texts = read_comments(path, DISTINCT)
    scores = served.scorer.score_many(texts)
    masks = pack_label_rows(scores >= served.scorer.thresholds)
    hashes = [text_hash(text) for text in texts]
    sketches = [triage.minhash(normalise(text)[0]) for text in texts]
    with connection.cursor() as cursor:
        # Disable the checks of foreign keys, which take longer than the insert.
        cursor.execute("SET LOCAL session_replication_role = replica")
    # The fifth with the highest scores fills the queue, as a policy would.
    order = sorted(range(len(texts)), key=lambda row: -float(scores[row].max()))
    likely_items = order[: max(len(order) // 5, 1)]
    now = timezone.now()
    Author.objects.bulk_create(
        [
            Author(community=community, ref=f"author-{number}")
            for number in range(AUTHORS // len(COMMUNITIES))
            for community in COMMUNITIES
        ],
        ignore_conflicts=True,
    )
    authors: dict[str, list[int]] = {community: [] for community in COMMUNITIES}
    for pk, community in Author.objects.filter(community__in=COMMUNITIES).values_list("pk", "community"):
        authors[community].append(pk)
    moderators = _moderators()
    submissions: list[tuple[Any, int, str, Any]] = []

    def scored() -> Iterator[Prediction]:
        for number in range(predictions):
            is_item = number >= predictions - items
            row = chance.choice(likely_items) if is_item else chance.randrange(len(texts))
            community = chance.choice(COMMUNITIES)
            prediction = Prediction(
                id=uuid7(),
                created_at=now - timedelta(days=DAYS) * (1 - number / predictions),
                source=Prediction.Source.API,
                community=community,
                text=texts[row],
                text_hash=hashes[row],
                label_mask=masks[row],
                model_version_id=served.version_id,
                latency_us=150,
                **dict(zip(LABELS, scores[row].tolist(), strict=True)),
            )
            if number >= predictions - 2 * items:
                submissions.append((prediction.pk, row, community, prediction.created_at))
            yield prediction

    _copy(scored(), Prediction)
    verdicts = [
        triage.apply_policy(probabilities=dict(zip(LABELS, row.tolist(), strict=True)), policy=policy)
        for row in scores
    ]
    writers = [chance.choice(authors[community]) for _, _, community, _ in submissions]
    _copy(
        (
            Submission(
                prediction_id=pk,
                community=community,
                author_id=writer,
                policy=policy,
                outcome="approve" if number < items else "human_review",
                reasons=verdicts[row].reasons if number >= items else [],
                created_at=created_at,
            )
            for number, ((pk, row, community, created_at), writer) in enumerate(
                zip(submissions, writers, strict=True)
            )
        ),
        Submission,
    )
    _copy(_items(submissions[items:], scores, verdicts, sketches, policy, now, chance), QueueItem)
    # Read all rows first, because a connection processes no other query while COPY runs.
    decided = list(
        QueueItem.objects.exclude(status="open").values_list(
            "pk", "submission", "submission__author", "status", "decided_at"
        )
    )
    rule = next(iter(policy.rules.all()))
    _copy(
        (
            Decision(
                submission_id=pk,
                author_id=writer,
                action="approve",
                automatic=True,
                model_version_id=served.version_id,
                policy=policy,
                created_at=created_at,
            )
            for (pk, _, _, created_at), writer in islice(zip(submissions, writers, strict=True), items)
        ),
        Decision,
    )
    _copy(
        (
            Decision(
                submission_id=submission,
                item_id=item,
                item_version=2,
                author_id=writer,
                action="approve" if status == "approved" else "reject",
                rule=None if status == "approved" else rule,
                by=chance.choice(moderators),
                seconds=chance.uniform(3, 60),
                model_version_id=served.version_id,
                policy=policy,
                created_at=decided_at or now,
            )
            for item, submission, writer, status, decided_at in decided
        ),
        Decision,
    )


def _items(
    submissions: Sequence[tuple[Any, int, str, Any]],
    scores: Any,
    verdicts: Sequence[triage.Verdict],
    sketches: Sequence[tuple[int, int]],
    policy: Policy,
    now: Any,
    chance: random.Random,
) -> Iterator[QueueItem]:
    for pk, row, community, created_at in submissions:
        kind = QueueItem.Kind.AUDIT if chance.random() < 0.1 else QueueItem.Kind.REVIEW
        probabilities = dict(zip(LABELS, scores[row].tolist(), strict=True))
        rank = triage.rank(
            probabilities=probabilities,
            policy=policy,
            kind=kind,
            strikes=chance.choice((0, 0, 0, 1, 3)),
            now=created_at,
        )
        is_open = chance.random() < OPEN_SHARE
        label = verdicts[row].label
        yield QueueItem(
            submission_id=pk,
            policy=policy,
            community=community,
            kind=kind,
            queue=rank.queue,
            label=label,
            score=probabilities[label],
            severity=rank.severity,
            uncertainty=rank.uncertainty,
            author_risk=rank.author_risk,
            priority=rank.priority,
            sampling_chance=(policy.audit_share or 1.0) if kind == QueueItem.Kind.AUDIT else 1.0,
            # Real queues hold few copies of one comment: each text is spread over many clusters.
            cluster=row * 1_000 + chance.randrange(1_000),
            minhash_a=sketches[row][0],
            minhash_b=sketches[row][1],
            created_at=created_at,
            due_at=rank.due_at,
            status="open" if is_open else chance.choice(("approved", "rejected")),
            decided_at=None if is_open else min(created_at + timedelta(hours=3), now),
            version=1 if is_open else 3,
        )


def analyse() -> None:
    """Update the statistics of PostgreSQL, as autovacuum would within minutes."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
