"""What a training run shows of itself: plots, the most telling words and the model card."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from apps.classifier.bias_audit import audit_sentences, bias_report, worst_group
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.classifier.training import top_features
from apps.training.datasets import Rows
from apps.training.models import TrainingRun

BINS = 15

Draw = Callable[[Axes, str, np.ndarray, np.ndarray, np.ndarray], None]


def write_plots(
    folder: Path, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None
) -> None:
    """Write `roc.png`, `precision_recall.png`, `calibration.png` and `scores.png`, each with six panels."""
    every = np.ones(len(labels)) if weights is None else weights
    draws: dict[str, Draw] = {
        "roc": _roc,
        "precision_recall": _precision_recall,
        "calibration": _calibration,
        "scores": _scores,
    }
    (folder / "plots").mkdir()
    for name, draw in draws.items():
        # A Figure of its own needs neither a display nor pyplot's global state.
        figure = Figure(figsize=(11, 7), layout="constrained")
        for column, (axes, label) in enumerate(zip(figure.subplots(2, 3).flat, LABELS, strict=True)):
            axes.set_title(label)
            truth = labels[:, column].astype(bool)
            if truth.any() and not truth.all():
                draw(axes, label, truth, probabilities[:, column], every)
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
    axes.set(xlabel="predicted probability", ylabel="observed share")


def _scores(axes: Axes, label: str, truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> None:
    for chosen, name in ((~truth, "without the label"), (truth, "with the label")):
        axes.hist(scores[chosen], bins=40, range=(0, 1), weights=weights[chosen], alpha=0.6, label=name)
    axes.set(xlabel="probability", ylabel="comments", yscale="log")
    axes.legend(fontsize=8)


def write_top_features(folder: Path, scorer: Scorer, rows: Rows) -> None:
    """Write `top_features.json`: per label the words that speak most for it, and how much."""
    telling = top_features(scorer.model, rows.texts)
    (folder / "top_features.json").write_text(json.dumps(telling, indent=1, ensure_ascii=False))


def write_groups(folder: Path, scorer: Scorer) -> dict[str, tuple[str, float]]:
    """Write `groups.json`: each group's subgroup, BPSN and BNSP AUC of `toxic` on the audit sentences.

    Returns:
        For each of the three measures the group that is treated worst, and its AUC.
    """
    sentences = audit_sentences()
    groups = bias_report(sentences, scorer.score_many(sentences.texts)[:, 0])
    (folder / "groups.json").write_text(json.dumps(groups, indent=1))
    return {measure: worst_group(groups, measure) for measure in ("subgroup", "bpsn", "bnsp")}


def card(
    run: TrainingRun, scorer: Scorer, learned: int, held_out: int, worst: dict[str, tuple[str, float]]
) -> str:
    """Return the model card, in Markdown; `worst` is what `write_groups` returns."""
    dataset = run.dataset
    counts = ", ".join(f"{label} {count:,}" for label, count in dataset.positives.items())
    rate = (
        f"Labelled comments are over-represented; clean ones count {dataset.clean_weight:.2f} times in fit "
        f"and the figures, so that these hold for a stream with {dataset.natural_rate:.1%} labelled."
        if dataset.natural_rate
        else "All rows count the same: the figures hold for a stream with its own share of each label."
    )
    rules = scorer.manifest.get("threshold_rules", {})
    thresholds = scorer.manifest["thresholds"]
    lines = [
        " | ".join(
            [name, _cell(thresholds.get(name)), rules.get(name, "")]
            + [_cell(figures[metric]) for metric in METRICS]
        )
        for name, figures in run.metrics.items()
    ]
    return CARD.format(
        recipe=run.recipe,
        seed=run.seed,
        commit=run.git_commit or "unknown",
        dataset=dataset,
        sha256=dataset.sha256,
        rows=dataset.rows,
        counts=counts,
        licence=dataset.licence or "not stated when it was imported; ask whoever gave it",
        rate=rate,
        learned=learned,
        held_out=held_out,
        worst=", ".join(f"{measure.upper()} {auc:.3f} ({group})" for measure, (group, auc) in worst.items()),
        table="\n".join(f"| {line} |" for line in lines),
    )


METRICS = ("roc_auc", "pr_auc", "precision", "recall", "f1", "brier", "ece")


def _cell(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.4f}"


CARD = """# Model card: toxicmod {recipe}

Gives a comment six probabilities: toxic, severe_toxic, obscene, threat, insult, identity_hate.

## Model
Linear over hashed n-grams of the normalised text (characters and words), then small boosted trees over the
six logits and the comment's surface, calibrated per label. Recipe `{recipe}`, seed {seed}, code at commit
`{commit}`. It is data: arrays and JSON, loaded without pickle.

## Data
{dataset}, {rows:,} comments, SHA-256 of the rows `{sha256}`. Labelled: {counts}.
Licence: {licence}. {rate}

## Figures
Measured on {held_out:,} held-out comments by a fit on the other {learned:,}; the model itself is the same
recipe fitted on all of them. Comments that are equal once normalised are on one side of the split. Precision,
recall and F1 are at the thresholds of that fit; ECE is the expected calibration error over 15 bins.

| label | threshold | chosen for | ROC-AUC | PR-AUC | precision | recall | F1 | Brier | ECE |
|---|---|---|---|---|---|---|---|---|---|
{table}

## Intended use
Sorting comments in English for human moderators: what may stay, what needs a look, what to look at first.
Not for deciding about people, and not as the only judge where a wrong removal does harm: offer an appeal.

## Limits
- It reads words, not meaning: irony, quotation, negation and context escape it, and on HateCheck, which tests
  just these, linear models of this kind are at chance level.
- English only. Other languages score low whatever they say.
- Bias: words that name a group raise the score where the data speaks of that group mostly in insults. AUC of
  `toxic` for the worst group, in sentences of shapes that training has not seen: {worst}.
  It is lower where the abuse is in words that neither the data nor the sentences for training hold. Watch the
  groups that matter to your community, and correct with your own labels.
- The labels are the majority opinion of crowd workers on one platform's comments of one time.
- Disguised spelling is normalised (look-alikes, spacing, leetspeak, repeats), not every disguise.
"""


def plot_learning(
    path: Path, labels: np.ndarray, curves: dict[str, np.ndarray], needed: float | None
) -> None:
    """Draw mean PR-AUC over the number of `labels` (n,), for each way its curve (seeds, n), as SVG.

    Args:
        needed: at how many labels the first way reaches what the last one ends with.
    """
    with rc_context({"svg.hashsalt": "toxicmod", "svg.fonttype": "path"}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for (way, curve), colour in zip(curves.items(), ("tab:blue", "tab:orange"), strict=True):
            axes.fill_between(
                labels, curve.min(axis=0), curve.max(axis=0), color=colour, alpha=0.2, linewidth=0
            )
            axes.plot(labels, curve.mean(axis=0), "o-", color=colour, markersize=3, label=way)
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
