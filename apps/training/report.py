"""The report of a training run: plots, top features, bias by group and the model card."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from apps.classifier import meaning
from apps.classifier.bias_audit import audit_sentences, bias_report, worst_group
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.classifier.training import top_features
from apps.training import readings
from apps.training.datasets import Rows
from apps.training.models import TrainingRun

BINS = 15
WORST_PATTERNS = 5

Draw = Callable[[Axes, str, np.ndarray, np.ndarray, np.ndarray], None]


def write_plots(
    folder: Path, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None
) -> None:
    """Write `roc.png`, `precision_recall.png`, `calibration.png` and `scores.png`, each with six panels."""
    row_weights = np.ones(len(labels)) if weights is None else weights
    draws: dict[str, Draw] = {
        "roc": _roc,
        "precision_recall": _precision_recall,
        "calibration": _calibration,
        "scores": _scores,
    }
    (folder / "plots").mkdir()
    for name, draw in draws.items():
        # Unlike pyplot, a Figure needs no display and no global state.
        figure = Figure(figsize=(11, 7), layout="constrained")
        for column, (axes, label) in enumerate(zip(figure.subplots(2, 3).flat, LABELS, strict=True)):
            axes.set_title(label)
            truth = labels[:, column].astype(bool)
            if truth.any() and not truth.all():
                draw(axes, label, truth, probabilities[:, column], row_weights)
        figure.savefig(folder / "plots" / f"{name}.png", dpi=100)


def _roc(axes: Axes, label: str, truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> None:
    false, true, _ = roc_curve(truth, scores, sample_weight=weights)
    axes.plot(false, true)
    axes.plot([0, 1], [0, 1], "k:", linewidth=1)
    axes.set(xlabel="false positive rate", ylabel="true positive rate")


def _precision_recall(
    axes: Axes, label: str, truth: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> None:
    precision, recall, _ = precision_recall_curve(truth, scores, sample_weight=weights)
    axes.plot(recall, precision)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))


def _calibration(axes: Axes, label: str, truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> None:
    bin_of = np.minimum((scores * BINS).astype(int), BINS - 1)
    total = np.bincount(bin_of, weights, BINS)
    filled = total > 0
    predicted = np.bincount(bin_of, weights * scores, BINS)[filled] / total[filled]
    observed = np.bincount(bin_of, weights * truth, BINS)[filled] / total[filled]
    axes.plot(predicted, observed, "o-")
    axes.plot([0, 1], [0, 1], "k:", linewidth=1)
    axes.set(xlabel="predicted probability", ylabel="observed rate")


def _scores(axes: Axes, label: str, truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> None:
    for rows, name in ((~truth, "without the label"), (truth, "with the label")):
        axes.hist(scores[rows], bins=40, range=(0, 1), weights=weights[rows], alpha=0.6, label=name)
    axes.set(xlabel="probability", ylabel="comments", yscale="log")
    axes.legend(fontsize=8)


def write_top_features(folder: Path, scorer: Scorer, rows: Rows) -> None:
    """Write `top_features.json`: for each label the words with the highest weights, and the weights."""
    features = top_features(scorer.model, rows.texts)
    (folder / "top_features.json").write_text(json.dumps(features, indent=1, ensure_ascii=False))


def write_groups(folder: Path, scorer: Scorer) -> dict[str, tuple[str, float]]:
    """Write `groups.json`: each group's subgroup, BPSN and BNSP AUC of `toxic` on the audit sentences.

    Returns:
        For each of the three metrics the group with the lowest AUC, and the AUC.
    """
    sentences = audit_sentences()
    with readings.read_audits_once():
        probabilities = scorer.score_many(sentences.texts)
    groups = bias_report(sentences, probabilities[:, 0])
    (folder / "groups.json").write_text(json.dumps(groups, indent=1))
    return {metric: worst_group(groups, metric) for metric in ("subgroup", "bpsn", "bnsp")}


def build_card(
    run: TrainingRun,
    scorer: Scorer,
    training_rows: int,
    held_out_rows: int,
    worst_groups: dict[str, tuple[str, float]],
) -> str:
    """Return the model card in Markdown.

    Args:
        worst_groups: the result of `write_groups`.
    """
    dataset = run.dataset
    counts = ", ".join(f"{label} {count:,}" for label, count in dataset.positives.items())
    rate = (
        f"Labelled comments are over-represented. Clean comments have weight {dataset.clean_weight:.2f} in "
        f"training and evaluation, so that the metrics are valid for traffic with {dataset.natural_rate:.1%} "
        "labelled comments."
        if dataset.natural_rate
        else "All rows have the same weight: the metrics are valid for traffic with the same label rates."
    )
    rules = scorer.manifest.get("threshold_rules", {})
    thresholds = scorer.manifest["thresholds"]
    lines = [
        " | ".join(
            [name, _cell(thresholds.get(name)), rules.get(name, "")]
            + [_cell(metrics[metric]) for metric in METRICS]
        )
        for name, metrics in run.metrics.items()
    ]
    return CARD.format(
        recipe=run.recipe,
        seed=run.seed,
        commit=run.git_commit or "unknown",
        dataset=dataset,
        sha256=dataset.sha256,
        rows=dataset.rows,
        counts=counts,
        licence=(dataset.licence or "not stated when the data was imported").rstrip("."),
        rate=rate,
        training_rows=training_rows,
        held_out_rows=held_out_rows,
        encoder=_describe_encoder(scorer),
        meaning=_describe_meaning(scorer),
        limits=LIMITS_WITH_ENCODER if scorer.other_languages else LIMITS_WITHOUT_ENCODER,
        worst=", ".join(
            f"{metric.upper()} {auc:.3f} ({group})" for metric, (group, auc) in worst_groups.items()
        ),
        table="\n".join(f"| {line} |" for line in lines),
    )


def _describe_encoder(scorer: Scorer) -> str:
    if not scorer.other_languages:
        return "No encoder reads the comments."
    encoder = scorer.manifest["encoder"]
    return (
        "An encoder reads comments of 100 characters to which the first two stages give a label the\n"
        f"probability {encoder['read_from']:.3f} or more. Longer ones need a higher probability, and\n"
        "shorter ones a lower one. It also reads all that are not surely English, where it decides alone.\n"
        "For English, the result is a\n"
        "weighted sum of both logits, with weights fitted on comments that the encoder was not trained on.\n"
        f"SHA-256 of the encoder's manifest: `{encoder['sha256']}`."
    )


def _describe_meaning(scorer: Scorer) -> str:
    sentences = [sentence for sentence in meaning.load("test") if sentence.language == "en"]
    with readings.read_audits_once():
        flags = scorer.flag([sentence.text for sentence in sentences])
    rates = meaning.accuracies(sentences, flags.tolist())
    worst = ", ".join(f"{pattern} {rate:.0%}" for pattern, rate in list(rates.items())[:WORST_PATTERNS])
    mean = np.mean(list(rates.values()))
    return (
        f"Of {len(sentences):,} English sentences in {len(rates)} patterns, half of which are harmless, "
        f"{mean:.0%} are rightly flagged or rightly not (mean of patterns).\nWorst patterns: {worst}."
    )


METRICS = ("roc_auc", "pr_auc", "precision", "recall", "f1", "brier", "ece")


def _cell(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.4f}"


CARD = """# Model card: toxicmod {recipe}

Computes six probabilities of a comment: toxic, severe_toxic, obscene, threat, insult, identity_hate.

## Model
First stage: linear models over hashed n-grams of the normalised text (characters and words). Second stage:
small boosted trees over their logits and statistics of the text's surface. Both are calibrated per label.
{encoder}
Recipe `{recipe}`, seed {seed}, code at commit `{commit}`. The files are arrays and JSON, loaded without
pickle.

## Data
{dataset}, {rows:,} comments, SHA-256 of the rows `{sha256}`. Labelled: {counts}.
Licence: {licence}. {rate}

## Metrics
Measured on {held_out_rows:,} held-out comments, with a model trained on the other {training_rows:,}. This
model is the same recipe trained on all of them. Comments that are equal once normalised are on one side of
the split. Precision, recall and F1 are at the thresholds; ECE is the expected calibration error over 15 bins.

| label | threshold | chosen for | ROC-AUC | PR-AUC | precision | recall | F1 | Brier | ECE |
|---|---|---|---|---|---|---|---|---|---|
{table}

## Sentences about meaning
{meaning}

## Intended use
To support human moderators: what can be published, what needs review, what to review
first. Do not use it to assess people, nor as the only decision where a wrong removal does harm: offer an
appeal.

## Limits
{limits}
- Bias: words that name a group raise the score if the data mentions that group mostly in insults. AUC of
  `toxic` for the worst group, in sentences from templates that training does not use: {worst}.
  It is lower for abuse in words that are neither in the data nor in the training sentences. Monitor the
  groups that matter to your community, and correct the model with your own labels.
- Irony, quotations and what a comment answers to are misjudged more often than plain insults.
- The labels are the majority opinion of crowd workers on comments of one platform and period.
- Normalisation undoes common obfuscation (homoglyphs, spacing, leetspeak, repeats), not every kind.
"""


LIMITS_WITHOUT_ENCODER = """\
- It reads words, not meaning. It misjudges irony, quotations, negations and context; on HateCheck, which
  tests these, linear models of this kind are at chance level.
- English only. Scores of other languages are low even if the text is toxic."""
LIMITS_WITH_ENCODER = """\
- Comments that the encoder does not read are scored by their words. Veiled threats, hate in kind words and
  long comments are among them.
- It reads English best. The site's page *About the model* has the figures of other languages; some are not
  measured. Without labelled comments of a language, only `toxic` is worth relying on.
- The encoder reads only the first part of a comment, about 90 words."""


def plot_learning(
    path: Path, labels: np.ndarray, curves: dict[str, np.ndarray], needed: float | None
) -> None:
    """Draw mean PR-AUC over the number of labels as SVG.

    Args:
        labels: (n,) numbers of labels.
        curves: (seeds, n) mean PR-AUC of each strategy.
        needed: with how many labels the first strategy reaches the last value of the last one.
    """
    with rc_context({"svg.hashsalt": "toxicmod", "svg.fonttype": "path"}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for (strategy, curve), colour in zip(curves.items(), ("tab:blue", "tab:orange"), strict=True):
            axes.fill_between(
                labels, curve.min(axis=0), curve.max(axis=0), color=colour, alpha=0.2, linewidth=0
            )
            axes.plot(labels, curve.mean(axis=0), "o-", color=colour, markersize=3, label=strategy)
        if needed is not None:
            axes.hlines(curve.mean(axis=0)[-1], needed, labels[-1], "grey", "dotted")
            axes.annotate(
                f"{needed:,.0f} labels",
                (needed, curve.mean(axis=0)[-1]),
                (6, -12),
                textcoords="offset points",
            )
        axes.set(xlabel="labels", ylabel="mean PR-AUC, held out")
        axes.legend(loc="lower right", frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")
