"""What a version must show before it may become champion, on rows that neither of them has learned."""

import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

import numpy as np
from django.utils import timezone
from tqdm import tqdm

from apps.classifier.bias_audit import audit_sentences, bias_report, worst_group
from apps.classifier.evaluation import calibration_error, evaluate, paired_bootstrap
from apps.classifier.labels import LABELS
from apps.classifier.obfuscation import KINDS, obfuscate
from apps.classifier.scorer import Scorer
from apps.predictions.models import Prediction
from apps.registry.gates import Rule, compare
from apps.registry.models import EvaluationArtifact, ModelVersion
from apps.training import datasets
from apps.training.datasets import Rows
from apps.training.models import Dataset, Gate

MAX_AUC_LOSS = 0.001
# A label's loss may be larger where few held-out rows do not tell it from chance, but never above the second
# figure: a loss that large fails even if chance might explain it.
MAX_LABEL_LOSS = {"roc_auc": 0.002, "pr_auc": 0.01}
MAX_CHANCE_LOSS = {"roc_auc": 0.01, "pr_auc": 0.05}
METRIC_NAMES = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC"}
MIN_GROUP_AUC = 0.80
MAX_GROUP_LOSS = 0.02
MAX_DISGUISE_LOSS = 0.01
DISGUISED_TEXTS = 2_000
MAX_FLIP_RATE = 0.05
TRAFFIC, TRAFFIC_TEXTS = timedelta(days=7), 2_000
MAX_CALIBRATION_ERROR = 0.02
MAX_LATENCY_US = 500.0
LATENCY_TEXTS = 500
DRAWS = 200
CHUNK = 2_048
Figures = dict[str, dict[str, float | None]]


def twin(version: ModelVersion) -> Scorer:
    """Return the version's twin that has not learned the held-out rows, or the version itself if it has none.

    Raises:
        ArtifactError: the stored bytes are damaged.
    """
    stored = EvaluationArtifact.objects.filter(version=version).first() or version.modelartifact
    return Scorer.load(stored.artifact())


def score_all(scorer: Scorer, texts: Sequence[str]) -> np.ndarray:
    """Return (n, 6) probabilities, showing progress."""
    chunks = [texts[first : first + CHUNK] for first in range(0, max(len(texts), 1), CHUNK)]
    bar = tqdm(chunks, desc="Scoring", leave=False, disable=None)
    return np.concatenate([scorer.score_many(chunk) for chunk in bar])


def verdicts(version: ModelVersion, champion: ModelVersion | None, dataset: Dataset | None) -> list[Gate]:
    """Judge a version against the champion on the held-out rows of a data set.

    Without a data set, or with its file missing, the only gate is that there are rows, and it is not passed.
    Without a champion the ROC-AUC has no bound.

    Raises:
        ArtifactError: a stored artifact is damaged.
    """
    if dataset is None or not datasets.is_here(dataset.path):
        return [Gate(name="rows to judge on: import a data set", figure=None, bound=None, passed=False)]
    rows = datasets.read(dataset.path, clean_weight=dataset.clean_weight)
    rows = rows.take(rows.parts()[1])
    served = Scorer.load(version.modelartifact.artifact(), expected_sha256=version.sha256)

    def figures(scorer: Scorer, probabilities: np.ndarray) -> Figures:
        return evaluate(rows.labels, probabilities, scorer.thresholds, rows.weights)

    challenger = twin(version)
    probabilities = score_all(challenger, rows.texts)
    own = figures(challenger, probabilities)
    rival, best, differences = None, None, []
    if champion:
        rival = twin(champion)
        theirs = score_all(rival, rows.texts)
        best = figures(rival, theirs)["mean"]["roc_auc"]
        differences = list(_differences(rows, probabilities, theirs))
    return [
        _at_least("mean ROC-AUC", own["mean"]["roc_auc"], best and best - MAX_AUC_LOSS),
        *differences,
        _calibration(own, rows, probabilities),
        *_groups(challenger, rival),
        _disguises(challenger, rival, rows),
        _at_most("median µs per comment", latency_us(served, rows.texts[:LATENCY_TEXTS]), MAX_LATENCY_US),
        *_flips(served, champion),
    ]


def _differences(rows: Rows, own: np.ndarray, theirs: np.ndarray) -> Iterator[Gate]:
    """Judge each label's figures against the champion's on the same rows."""
    for label, metrics in paired_bootstrap(rows.labels, own, theirs, rows.weights, draws=DRAWS).items():
        for metric, (difference, low, high) in metrics.items():
            allowed = MAX_LABEL_LOSS[metric]
            bound = -max(allowed, min(allowed + high - difference, MAX_CHANCE_LOSS[metric]))
            gate = _at_least(f"{METRIC_NAMES[metric]} above the champion's ({label})", difference, bound)
            gate["interval"] = (low, high)
            if bound < -allowed:
                gate["note"] = f"-{allowed:.4f}, and what chance explains on these rows"
            yield gate


def _groups(own: Scorer, rival: Scorer | None) -> Iterator[Gate]:
    """Judge the group that is treated worst in sentences of shapes that no training has seen.

    A champion that is below the bound itself sets it, so that a small data set can get better step by step.
    """
    sentences = audit_sentences()
    reports = [
        bias_report(sentences, scorer.score_many(sentences.texts)[:, 0]) for scorer in (own, rival) if scorer
    ]
    for measure in ("bpsn", "bnsp"):
        (group, figure), *before = (worst_group(report, measure) for report in reports)
        bound = min([MIN_GROUP_AUC, *(auc - MAX_GROUP_LOSS for _, auc in before)])
        yield _at_least(f"worst group's {measure.upper()} AUC ({group})", figure, bound)


def _disguises(own: Scorer, rival: Scorer | None, rows: Rows) -> Gate:
    """Judge what disguised spelling costs `toxic` in ROC-AUC, the mean of all kinds, both classes alike."""
    # Loaded on first use: only the training worker needs scikit-learn.
    from sklearn.metrics import roc_auc_score

    texts, y = rows.texts[:DISGUISED_TEXTS], rows.labels[:DISGUISED_TEXTS, 0]
    name = "ROC-AUC lost to disguised spelling (toxic)"
    if y.min(initial=1) == y.max(initial=0):
        return Gate(name=f"{name}: too few comments to tell", figure=None, bound=None, passed=True)
    disguised = [obfuscate(texts, kind) for kind in KINDS]

    def loss(scorer: Scorer) -> float:
        clean, *others = (roc_auc_score(y, scorer.score_many(each)[:, 0]) for each in (texts, *disguised))
        return float(clean - np.mean(others))

    bound = MAX_DISGUISE_LOSS if rival is None else max(MAX_DISGUISE_LOSS, loss(rival) + MAX_DISGUISE_LOSS)
    return _at_most(name, loss(own), bound)


def _flips(served: Scorer, champion: ModelVersion | None) -> Iterator[Gate]:
    """Judge the share of last week's comments on which the two disagree whether any label is given."""
    if champion is None:
        return
    newest = (
        Prediction.objects.filter(created_at__gte=timezone.now() - TRAFFIC, text__isnull=False)
        .order_by("-id")
        .values_list("text", flat=True)[:TRAFFIC_TEXTS]
    )
    texts = [text for text in newest if text is not None]
    if not texts:
        yield Gate(name="flip rate: no traffic last week", figure=None, bound=None, passed=True)
        return
    rival = Scorer.load(champion.modelartifact.artifact(), expected_sha256=champion.sha256)
    own, theirs = ((scorer.score_many(texts) >= scorer.thresholds).any(axis=1) for scorer in (served, rival))
    yield _at_most("flip rate on last week's traffic", float(np.mean(own != theirs)), MAX_FLIP_RATE)


def _calibration(figures: Figures, rows: Rows, probabilities: np.ndarray) -> Gate:
    """Judge the label that is furthest above its bound, which on few rows allows for chance.

    The bound is what a perfectly calibrated model would exceed on these rows once in a hundred times, if that
    is more than `MAX_CALIBRATION_ERROR`.
    """
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    chance = np.random.default_rng(0)
    gates = []
    for column, label in enumerate(LABELS):
        p = probabilities[:, column]
        drawn = [calibration_error(chance.random(len(p)) < p, p, weights) for _ in range(DRAWS)]
        bound = max(MAX_CALIBRATION_ERROR, float(np.quantile(drawn, 0.99)))
        gates.append(_at_most(f"calibration error ({label})", figures[label]["ece"], bound))
    return max(gates, key=lambda gate: (gate["figure"] or 0.0) - (gate["bound"] or 0.0))


def latency_us(scorer: Scorer, texts: Sequence[str]) -> float | None:
    """Return the median microseconds of scoring one comment, or None without comments."""
    seconds = []
    for text in texts:
        start = time.perf_counter()
        scorer.score(text)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e6 if seconds else None


def _at_least(name: str, figure: float | None, bound: float | None) -> Gate:
    return _gate(Rule.AT_LEAST, name, figure, bound)


def _at_most(name: str, figure: float | None, bound: float) -> Gate:
    return _gate(Rule.AT_MOST, name, figure, bound)


def _gate(rule: Rule, name: str, figure: float | None, bound: float | None) -> Gate:
    passed = figure is not None if bound is None else compare(rule, figure, bound, None)
    return Gate(name=name, figure=figure, bound=bound, passed=passed, rule=rule)
