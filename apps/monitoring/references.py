"""What traffic is held against: the rows that the champion was measured on, and their words."""

import random
from datetime import timedelta

import numpy as np
from django.utils import timezone

from apps.classifier.bias_audit import audit_sentences, bias_report
from apps.classifier.labels import LABELS
from apps.monitoring import words
from apps.monitoring.models import LENGTH_EDGES, SCORE_BINS, DomainCheck, Reference
from apps.monitoring.rollups import bins_of, scorer_of
from apps.predictions.models import Prediction
from apps.registry.models import Alias, ModelVersion
from apps.training import datasets, gates
from apps.training.models import Dataset, TrainingRun

WEEK = timedelta(days=7)
TEXTS = 2_000
WORD_TEXTS = 2_000


def look_deeper() -> None:
    """Build the champion's reference where it has none, and compare last week's comments with its texts.

    Without the data set's file on this machine there is no reference: traffic is then held against the
    champion's first week, and last week's words against those of the week before.
    """
    champion = ModelVersion.objects.with_alias(Alias.CHAMPION)
    if champion is None:
        return
    audit(version=champion)
    dataset = _dataset_of(champion)
    if dataset is None:
        check_domains(version=champion, before=_texts_of(2), compared="the week before")
        return
    rows = datasets.read(dataset.path, clean_weight=dataset.clean_weight)
    held_out = rows.take(rows.parts()[1])
    if not Reference.objects.filter(version=champion, rows__gt=0).exists():
        build(version=champion, dataset=dataset, rows=held_out)
    check_domains(version=champion, before=_natural(held_out), compared=f"held-out rows of {dataset}")


def audit(*, version: ModelVersion) -> None:
    """Store how a version treats sentences that name a group, see `classifier.bias_audit`."""
    if not Reference.objects.filter(version=version).exclude(bias={}).exists():
        sentences = audit_sentences()
        report = bias_report(
            sentences, gates.load_evaluation_model(version).score_many(sentences.texts)[:, 0]
        )
        Reference.objects.update_or_create(version=version, defaults={"bias": report})


def _dataset_of(version: ModelVersion) -> Dataset | None:
    """The data set that the version was made of, where its file is here."""
    run = TrainingRun.objects.filter(version=version).select_related("dataset").first()
    sha256 = version.manifest.get("dataset_sha256", "")
    dataset = run.dataset if run else Dataset.objects.filter(sha256=sha256).first()
    return dataset if dataset and dataset.path.is_file() else None


def build(*, version: ModelVersion, dataset: Dataset, rows: datasets.Rows) -> Reference:
    """Store how a version scores rows that it did not learn from, clean ones at their natural share."""
    evaluation_model = gates.load_evaluation_model(version)
    scores = evaluation_model.score_many(rows.texts)
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    places = np.clip((scores * SCORE_BINS).astype(int), 0, SCORE_BINS - 1)
    lengths = bins_of(np.array([len(text) for text in rows.texts], float), LENGTH_EDGES)
    known = scorer_of(version.pk)
    return Reference.objects.update_or_create(
        version=version,
        defaults={
            "dataset": str(dataset),
            "rows": len(rows),
            "flagged": np.rint(weights @ (scores >= evaluation_model.thresholds)),
            "scores": np.rint(
                [np.bincount(places[:, label], weights, SCORE_BINS) for label in range(len(LABELS))]
            ),
            "lengths": np.rint(np.bincount(lengths, weights, len(LENGTH_EDGES) - 1)),
            "words": sum(words.known_and_unknown(known, text) for text in rows.texts[:WORD_TEXTS]),
        },
    )[0]


def _natural(rows: datasets.Rows) -> list[str]:
    """A sample of the texts, clean ones drawn at their natural share."""
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    chance = np.random.default_rng(0)
    size = min(TEXTS, len(rows))
    drawn = chance.choice(len(rows), size=size, replace=False, p=weights / weights.sum())
    return [rows.texts[row] for row in drawn]


def _texts_of(weeks_ago: int) -> list[str]:
    """Comments from all over a week that ended some weeks ago; those that may be stored."""
    begin = timezone.now() - WEEK * weeks_ago
    slices = 168
    found: list[str] = []
    for number in range(slices):
        stored = Prediction.objects.filter(
            created_at__gte=begin + WEEK / slices * number,
            created_at__lt=begin + WEEK / slices * (number + 1),
            text__isnull=False,
        ).order_by("created_at")
        found += [text for text in stored.values_list("text", flat=True)[: TEXTS // slices * 2] if text]
    return random.Random(0).sample(found, min(TEXTS, len(found)))


def check_domains(*, version: ModelVersion, before: list[str], compared: str) -> DomainCheck | None:
    """Store how well last week's comments can be told from others, and by which words; None with too few."""
    # Loaded on first use: only the training worker needs scikit-learn.
    from apps.monitoring import domain

    after = _texts_of(1)
    found = domain.domains(before, after)
    if found is None:
        return None
    return DomainCheck.objects.create(
        version=version,
        compared=compared,
        comments=len(after),
        auc=found.auc.value,
        low=found.auc.low,
        high=found.auc.high,
        phrases=[[phrase.text, phrase.before, phrase.after, phrase.strength] for phrase in found.phrases],
    )
