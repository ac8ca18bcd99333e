"""Computes the champion's baseline for drift detection, and compares last week's comments with it."""

import random
from datetime import timedelta

import numpy as np
from django.utils import timezone

from apps.classifier.bias_audit import audit_sentences, bias_report
from apps.classifier.labels import LABELS
from apps.monitoring import ngram_stats
from apps.monitoring.models import LENGTH_EDGES, SCORE_BINS, Baseline, DomainCheck
from apps.monitoring.rollups.counter import bin_indices
from apps.predictions.models import Prediction
from apps.registry.models import Alias, ModelVersion
from apps.training import datasets, gates, readings
from apps.training.models import Dataset, TrainingRun

WEEK = timedelta(days=7)
_SLICES = 168  # a week in hours
_MAX_TEXTS = 2_000
_MAX_NGRAM_TEXTS = 2_000


def refresh_baselines() -> None:
    """Store the champion's bias audit and baseline, if it has none.

    If the data set's file is not on this machine, there is no baseline. The dashboard then compares traffic
    with the champion's first week.
    """
    champion = ModelVersion.objects.with_alias(Alias.CHAMPION)
    if champion is None:
        return
    store_bias_audit(version=champion)
    dataset = _dataset_of(champion)
    if dataset and not Baseline.objects.filter(version=champion, rows__gt=0).exists():
        store_baseline(version=champion, dataset=dataset, rows=_held_out(dataset))


def store_bias_audit(*, version: ModelVersion) -> None:
    """Store a version's bias audit (see `classifier.bias_audit`) unless there is one."""
    if not Baseline.objects.filter(version=version).exclude(bias={}).exists():
        sentences = audit_sentences()
        model = gates.load_evaluation_model(version)
        with readings.read_audits_once():
            probabilities = model.score_many(sentences.texts)
        report = bias_report(sentences, probabilities[:, 0])
        Baseline.objects.update_or_create(version=version, defaults={"bias": report})


def store_baseline(*, version: ModelVersion, dataset: Dataset, rows: datasets.Rows) -> Baseline:
    """Store the distributions of a version's scores on rows that it was not trained on.

    Rows are weighted so that clean comments have their natural frequency.
    """
    model = gates.load_evaluation_model(version)
    scores = model.score_many(rows.texts)
    weights = _weights(rows)
    bins = np.clip((scores * SCORE_BINS).astype(int), 0, SCORE_BINS - 1)
    lengths = bin_indices(np.array([len(text) for text in rows.texts], float), LENGTH_EDGES)
    lookup = ngram_stats.load_lookup(version.pk)
    return Baseline.objects.update_or_create(
        version=version,
        defaults={
            "dataset": str(dataset),
            "rows": len(rows),
            "flagged": np.rint(weights @ (scores >= model.thresholds)),
            "scores": np.rint(
                [np.bincount(bins[:, label], weights, SCORE_BINS) for label in range(len(LABELS))]
            ),
            "lengths": np.rint(np.bincount(lengths, weights, len(LENGTH_EDGES) - 1)),
            "ngrams": sum(ngram_stats.count_ngrams(lookup, text) for text in rows.texts[:_MAX_NGRAM_TEXTS]),
        },
    )[0]


def compare_last_week() -> DomainCheck | None:
    """Train a classifier to distinguish last week's comments from the champion's, and store its result.

    They are compared with the held-out rows of the champion's data set or, if its file is not on this
    machine, with the comments of the week before.

    Returns:
        None if there is no champion or there are too few texts.
    """
    from apps.monitoring import domain_classifier  # loads scikit-learn, which only the worker needs

    champion = ModelVersion.objects.with_alias(Alias.CHAMPION)
    if champion is None:
        return None
    dataset = _dataset_of(champion)
    texts, baseline_name = (
        (_draw_texts(_held_out(dataset)), f"held-out rows of {dataset}")
        if dataset
        else (_sample_texts(2), "the week before")
    )
    comments = _sample_texts(1)
    comparison = domain_classifier.compare_domains(texts, comments)
    if comparison is None:
        return None
    return DomainCheck.objects.create(
        version=champion,
        baseline_name=baseline_name,
        comments=len(comments),
        auc=comparison.auc.value,
        low=comparison.auc.low,
        high=comparison.auc.high,
        phrases=[
            [phrase.text, phrase.before, phrase.after, phrase.strength] for phrase in comparison.phrases
        ],
    )


def _dataset_of(version: ModelVersion) -> Dataset | None:
    """Return the data set that the version was trained on, if its file is on this machine."""
    run = TrainingRun.objects.filter(version=version).select_related("dataset").first()
    sha256 = version.manifest.get("dataset_sha256", "")
    dataset = run.dataset if run else Dataset.objects.filter(sha256=sha256).first()
    return dataset if dataset and dataset.path.is_file() else None


def _held_out(dataset: Dataset) -> datasets.Rows:
    rows = datasets.read(dataset.path, clean_weight=dataset.clean_weight)
    return rows.take(rows.split()[1])


def _weights(rows: datasets.Rows) -> np.ndarray:
    return np.ones(len(rows)) if rows.weights is None else rows.weights


def _draw_texts(rows: datasets.Rows) -> list[str]:
    """Return a sample of the texts in which clean comments have their natural frequency."""
    weights = _weights(rows)
    size = min(_MAX_TEXTS, len(rows))
    rng = np.random.default_rng(0)
    indices = rng.choice(len(rows), size=size, replace=False, p=weights / weights.sum())
    return [rows.texts[index] for index in indices]


def _sample_texts(weeks_ago: int) -> list[str]:
    """Return stored comments from every hour of the week that began `weeks_ago` weeks ago."""
    begin = timezone.now() - WEEK * weeks_ago
    texts: list[str] = []
    for number in range(_SLICES):
        stored = Prediction.objects.filter(
            created_at__gte=begin + WEEK / _SLICES * number,
            created_at__lt=begin + WEEK / _SLICES * (number + 1),
            text__isnull=False,
        ).order_by("created_at")
        texts += [text for text in stored.values_list("text", flat=True)[: _MAX_TEXTS // _SLICES * 2] if text]
    return random.Random(0).sample(texts, min(_MAX_TEXTS, len(texts)))
