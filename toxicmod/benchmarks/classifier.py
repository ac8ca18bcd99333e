"""Quality, latency and cost of the model and baselines: `python -m toxicmod.benchmarks.classifier CSV`."""

import argparse
import csv
import gzip
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from apps.classifier.bias_audit import audit_sentences, bias_report, worst_group
from apps.classifier.config import RECIPES, TrainingConfig
from apps.classifier.evaluation import calibration_error, natural_weights
from apps.classifier.labels import LABELS
from apps.classifier.obfuscation import KINDS, obfuscate
from apps.classifier.scorer import Scorer, warm
from apps.classifier.training import TwoLevelModel, fit

Rows = list[tuple[str, str, float]]  # metric, recipe or part of the data, value


def quality(
    texts: Sequence[str],
    labels: np.ndarray,
    *,
    recipes: Sequence[str] = RECIPES,
    held_out: float = 0.1,
    seed: int = 0,
) -> tuple[Rows, Scorer]:
    """Fit each recipe on the same part of the rows and measure it on the rest.

    Near-duplicates of held-out rows are held out too.

    Returns:
        The metrics and the scorer of `two_level`.
    """
    scorer: Scorer | None = None
    keyed = _small_scorer(texts, labels)
    keys = [keyed.text_key(text[:300]) for text in texts]
    test = np.array([int.from_bytes(key[:4], "big") / 2**32 < held_out for key in keys])
    training_texts, test_texts = _select(texts, ~test), _select(texts, test)
    test_labels, weights = labels[test], natural_weights(labels)
    rows: Rows = [("rows", "training", len(training_texts)), ("rows", "held out", len(test_texts))]
    for recipe in recipes:
        started = time.process_time()
        config = TrainingConfig(recipe=recipe, seed=seed)
        fitted = fit(training_texts, labels[~test], config, sample_weight=weights[~test])
        rows.append(("training, CPU seconds", recipe, time.process_time() - started))
        rows.append(
            ("peak memory so far, MB", recipe, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        )
        if isinstance(fitted, TwoLevelModel):
            artifact = fitted.artifact(name="bench")
            rows.append(("artifact, MB", recipe, (len(artifact.manifest) + len(artifact.weights)) / 1e6))
            scorer = Scorer.load(artifact)
            probabilities = scorer.score_many(test_texts, threads=1)
            rows += _two_level_metrics(scorer, test_texts, test_labels, probabilities, weights[test])
        else:
            probabilities = fitted.predict_proba(test_texts)
        areas = [roc_auc_score(test_labels[:, k], probabilities[:, k]) for k in range(len(LABELS))]
        rows.append(("ROC-AUC mean", recipe, float(np.mean(areas))))
        rows += [(f"ROC-AUC {label}", recipe, area) for label, area in zip(LABELS, areas, strict=True)]
    return rows, scorer or keyed


def _two_level_metrics(
    scorer: Scorer, texts: list[str], labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> Rows:
    rows: Rows = [
        (f"ECE {label}", "two_level", calibration_error(labels[:, k], probabilities[:, k], weights))
        for k, label in enumerate(LABELS)
    ]
    clean = roc_auc_score(labels[:, 0], probabilities[:, 0])
    losses = {
        kind: clean
        - roc_auc_score(labels[:, 0], scorer.score_many(obfuscate(texts, kind, seed=99), threads=1)[:, 0])
        for kind in KINDS
    }
    rows += [(f"obfuscation loss, {kind}", "two_level", float(loss)) for kind, loss in losses.items()]
    rows.append(("obfuscation loss, mean", "two_level", float(np.mean(list(losses.values())))))
    audit = audit_sentences()
    report = bias_report(audit, scorer.score_many(audit.texts, threads=1)[:, 0])
    for metric in ("bpsn", "bnsp", "subgroup"):
        group, value = worst_group(report, metric)
        rows.append((f"worst {metric} AUC ({group})", "two_level", value))
    return rows


def speed(scorer: Scorer, texts: Sequence[str], *, runs: int = 3) -> Rows:
    """Measure the scoring time of single comments and the rate of batches, both on one core."""
    warm(scorer)
    seconds = []
    for text in list(texts) * runs:
        started = time.perf_counter()
        scorer.score(text)
        seconds.append(time.perf_counter() - started)
    rates = []
    for _ in range(runs):
        started = time.perf_counter()
        scorer.score_many(texts, threads=1)
        rates.append(len(texts) / (time.perf_counter() - started))
    return [
        ("single comment, µs, median", "two_level", float(np.median(seconds) * 1e6)),
        ("single comment, µs, 99th percentile", "two_level", float(np.percentile(seconds, 99) * 1e6)),
        ("comments a second in batches", "two_level", float(np.median(rates))),
    ]


def _small_scorer(texts: Sequence[str], labels: np.ndarray) -> Scorer:
    fitted = fit(texts[:100], labels[:100])
    assert isinstance(fitted, TwoLevelModel)
    return Scorer.load(fitted.artifact())


def _select(texts: Sequence[str], rows: np.ndarray) -> list[str]:
    return [text for text, is_selected in zip(texts, rows, strict=True) if is_selected]


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """Return the texts and the labels (n, labels) of a Jigsaw-format CSV, plain or .gz."""
    opener = gzip.open if path.suffix == ".gz" else open
    csv.field_size_limit(1 << 24)
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([[int(row[label]) for label in LABELS] for row in rows], np.int8)
    return [row["comment_text"] for row in rows], labels


def machine() -> str:
    """Return the processor's name and the number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", type=Path, help="A CSV file with the columns of the Jigsaw data, also as .gz.")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES, help="The recipes to fit.")
    options = parser.parse_args(arguments)
    if not options.csv.exists():
        print(f"{options.csv} does not exist: give the path of a Jigsaw-format CSV.", file=sys.stderr)
        return 1
    texts, labels = read(options.csv)
    print(f"{machine()}; Python {platform.python_version()}, numpy {np.__version__}")
    rows, scorer = quality(texts, labels, recipes=options.recipes)
    for metric, subject, value in [*rows, *speed(scorer, texts[:5000])]:
        print(f"{metric:42}{subject:20}{value:>12,.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
