"""The gates of a model version: it is compared with the champion on rows that neither was trained on."""

import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

import numpy as np
from django.utils import timezone
from tqdm import tqdm

from apps.classifier import encoder, everyday
from apps.classifier.bias_audit import AUDITED_LANGUAGES, audit_sentences, bias_report, worst_group
from apps.classifier.evaluation import calibration_error, evaluate, paired_bootstrap
from apps.classifier.labels import LABELS
from apps.classifier.obfuscation import KINDS, obfuscate
from apps.classifier.scorer import Scorer
from apps.predictions.models import Prediction
from apps.registry.gates import Gate, Rule, compare
from apps.registry.models import EvaluationArtifact, ModelVersion
from apps.training import datasets, readings
from apps.training.datasets import Rows
from apps.training.models import Dataset

MAX_AUC_LOSS = 0.001
# A label with few held-out rows may lose as much as chance explains, but at most the second limit.
MAX_LABEL_LOSS = {"roc_auc": 0.002, "pr_auc": 0.01}
MAX_INSIGNIFICANT_LOSS = {"roc_auc": 0.01, "pr_auc": 0.05}
METRIC_NAMES = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC"}
MIN_GROUP_AUC = 0.80
MAX_GROUP_LOSS = 0.02
MAX_EVERYDAY_RATE = 0.001
MAX_OBFUSCATION_LOSS = 0.01
OBFUSCATED_TEXTS = 500
MAX_FLIP_RATE = 0.05
TRAFFIC_AGE, TRAFFIC_TEXTS = timedelta(days=7), 2_000
MAX_CALIBRATION_ERROR = 0.02
MAX_LATENCY_US, MAX_LATENCY_RATIO = 10_000.0, 1.5  # reading takes milliseconds
LATENCY_TEXTS = 500
DRAWS = 200
TEXTS_PER_BATCH = 2_048
Metrics = dict[str, dict[str, float | None]]


def load_evaluation_model(version: ModelVersion) -> Scorer:
    """Return the version's evaluation model, or the version itself if it has none.

    The evaluation model was not trained on the held-out rows.

    Raises:
        ArtifactError: the stored bytes are damaged.
    """
    stored = EvaluationArtifact.objects.filter(version=version).first() or version.modelartifact
    return Scorer.load(stored.artifact())


def score_all(scorer: Scorer, texts: Sequence[str]) -> np.ndarray:
    """Return (n, labels) probabilities and show a progress bar."""
    starts = range(0, max(len(texts), 1), TEXTS_PER_BATCH)
    batches = [texts[start : start + TEXTS_PER_BATCH] for start in starts]
    bar = tqdm(batches, desc="Scoring", leave=False, disable=None)
    return np.concatenate([scorer.score_many(batch) for batch in bar])


def run_gates(version: ModelVersion, champion: ModelVersion | None, dataset: Dataset | None) -> list[Gate]:
    """Measure a version against the champion on the held-out rows of a data set.

    Without a data set, or if its file is missing, the only gate is that there are rows, and it fails. Without
    a champion the ROC-AUC has no bound.

    Raises:
        ArtifactError: a stored artifact is damaged.
    """
    if dataset is None or not datasets.is_available(dataset.path):
        return [Gate(name="rows to evaluate on: import a data set", figure=None, bound=None, passed=False)]
    rows = datasets.read(dataset.path, clean_weight=dataset.clean_weight)
    rows = rows.take(rows.split()[1])
    served_scorer = version.load_scorer()

    def compute_metrics(scorer: Scorer, probabilities: np.ndarray) -> Metrics:
        return evaluate(rows.labels, probabilities, scorer.thresholds, rows.weights)

    candidate = load_evaluation_model(version)
    baseline, baseline_auc, label_gates = None, None, []
    with encoder.read_once():
        probabilities = score_all(candidate, rows.texts)
        metrics = compute_metrics(candidate, probabilities)
        if champion:
            baseline = load_evaluation_model(champion)
            baseline_probabilities = score_all(baseline, rows.texts)
            baseline_auc = compute_metrics(baseline, baseline_probabilities)["mean"]["roc_auc"]
            label_gates = list(_label_gates(rows, probabilities, baseline_probabilities))
        obfuscation_gate = _obfuscation_gate(candidate, baseline, rows)
        flip_rate_gates = list(_flip_rate_gates(served_scorer, champion))
    with readings.read_audits_once():
        group_gates = list(_group_gates(candidate, baseline))
        everyday_gate = _everyday_gate(candidate, baseline)
    return [
        _at_least("mean ROC-AUC", metrics["mean"]["roc_auc"], baseline_auc and baseline_auc - MAX_AUC_LOSS),
        *label_gates,
        _calibration_gate(metrics, rows, probabilities),
        *group_gates,
        everyday_gate,
        obfuscation_gate,
        _latency_gate(served_scorer, champion, rows.texts[:LATENCY_TEXTS]),
        *flip_rate_gates,
    ]


def _label_gates(rows: Rows, candidate: np.ndarray, baseline: np.ndarray) -> Iterator[Gate]:
    """Compare each label's ROC-AUC and PR-AUC with the baseline's on the same rows."""
    comparison = paired_bootstrap(rows.labels, candidate, baseline, rows.weights, draws=DRAWS)
    for label, metrics in comparison.items():
        for metric, (difference, low, high) in metrics.items():
            allowed = MAX_LABEL_LOSS[metric]
            bound = -max(allowed, min(allowed + high - difference, MAX_INSIGNIFICANT_LOSS[metric]))
            gate = _at_least(f"{METRIC_NAMES[metric]} above the champion's ({label})", difference, bound)
            gate["interval"] = (low, high)
            if bound < -allowed:
                gate["note"] = f"-{allowed:.4f} plus what chance explains on these rows"
            yield gate


def _group_gates(candidate: Scorer, baseline: Scorer | None) -> Iterator[Gate]:
    """Check the group with the lowest AUC on the audit sentences, in each language of the candidate.

    If the champion is below the bound, its own AUC is the bound, so that a small data set can improve in
    steps.
    """
    for language in AUDITED_LANGUAGES:
        if language not in ("en", *candidate.other_languages):
            continue
        sentences = audit_sentences(language=language)
        scores = [scorer.score_many(sentences.texts) for scorer in (candidate, baseline) if scorer]
        for name, labels in (("toxic", ["toxic"]), ("toxic or identity_hate", ["toxic", "identity_hate"])):
            columns = [LABELS.index(label) for label in labels]
            reports = [bias_report(sentences, rows[:, columns].max(axis=1)) for rows in scores]
            for metric in ("bpsn", "bnsp"):
                (group, auc), *baseline_groups = (worst_group(report, metric) for report in reports)
                bound = min([MIN_GROUP_AUC, *(auc - MAX_GROUP_LOSS for _, auc in baseline_groups)])
                name_of_group = group if language == "en" else f"{group}, {language}"
                yield _at_least(f"worst group's {metric.upper()} AUC, {name} ({name_of_group})", auc, bound)


def _everyday_gate(candidate: Scorer, baseline: Scorer | None) -> Gate:
    """Check the share of neutral sentences that are flagged; it may be as high as the champion's."""
    texts = everyday.audit_sentences()
    rates = [float(scorer.flag(texts).mean()) for scorer in (candidate, baseline) if scorer]
    return _at_most("share of everyday sentences flagged", rates[0], max(MAX_EVERYDAY_RATE, *rates[1:], 0.0))


def _obfuscation_gate(candidate: Scorer, baseline: Scorer | None, rows: Rows) -> Gate:
    """Check the ROC-AUC that `toxic` loses if texts are obfuscated, as the mean of all kinds."""
    # Web processes import this module without scikit-learn.
    from sklearn.metrics import roc_auc_score

    texts, y = rows.texts[:OBFUSCATED_TEXTS], rows.labels[:OBFUSCATED_TEXTS, 0]
    name = "ROC-AUC lost to obfuscated spelling (toxic)"
    if y.min(initial=1) == y.max(initial=0):
        return Gate(name=f"{name}: too few comments to measure", figure=None, bound=None, passed=True)
    obfuscated = [obfuscate(texts, kind) for kind in KINDS]

    def loss(scorer: Scorer) -> float:
        original, *permuted = (
            roc_auc_score(y, scorer.score_many(variant)[:, 0]) for variant in (texts, *obfuscated)
        )
        return float(original - np.mean(permuted))

    bound = MAX_OBFUSCATION_LOSS
    if baseline:
        bound += max(0.0, loss(baseline))
    return _at_most(name, loss(candidate), bound)


def _flip_rate_gates(served_scorer: Scorer, champion: ModelVersion | None) -> Iterator[Gate]:
    """Check the fraction of last week's comments for which the models disagree whether any label applies."""
    if champion is None:
        return
    newest = (
        Prediction.objects.filter(created_at__gte=timezone.now() - TRAFFIC_AGE, text__isnull=False)
        .order_by("-id")
        .values_list("text", flat=True)[:TRAFFIC_TEXTS]
    )
    texts = [text for text in newest if text is not None]
    if not texts:
        yield Gate(name="flip rate: no traffic last week", figure=None, bound=None, passed=True)
        return
    baseline = champion.load_scorer()
    candidate_flags, baseline_flags = (scorer.flag(texts) for scorer in (served_scorer, baseline))
    flip_rate = float(np.mean(candidate_flags != baseline_flags))
    yield _at_most("flip rate on last week's traffic", flip_rate, MAX_FLIP_RATE)


def _calibration_gate(metrics: Metrics, rows: Rows, probabilities: np.ndarray) -> Gate:
    """Check the calibration error of the label that exceeds its bound most.

    The bound is the error that a perfectly calibrated model exceeds on these rows once in a hundred times, if
    that is more than `MAX_CALIBRATION_ERROR`.
    """
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    rng = np.random.default_rng(0)
    gates = []
    for column, label in enumerate(LABELS):
        p = probabilities[:, column]
        simulated = [calibration_error(rng.random(len(p)) < p, p, weights) for _ in range(DRAWS)]
        bound = max(MAX_CALIBRATION_ERROR, float(np.quantile(simulated, 0.99)))
        gates.append(_at_most(f"calibration error ({label})", metrics[label]["ece"], bound))
    return max(gates, key=lambda gate: (gate["figure"] or 0.0) - (gate["bound"] or 0.0))


def _latency_gate(served_scorer: Scorer, champion: ModelVersion | None, texts: Sequence[str]) -> Gate:
    """Check the time of one comment. On a slow or busy machine the champion's, measured too, is the bound."""
    bound = MAX_LATENCY_US
    if champion:
        bound = max(bound, MAX_LATENCY_RATIO * (measure_latency_us(champion.load_scorer(), texts) or 0.0))
    return _at_most("median µs per comment", measure_latency_us(served_scorer, texts), bound)


def measure_latency_us(scorer: Scorer, texts: Sequence[str]) -> float | None:
    """Return the median time of scoring one comment in microseconds, or None without comments."""
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
