"""Texts and labels in, a fitted model out.

Recipes: "base" is the product's own model, "plain" and "strong" are scikit-learn references beside it.
"""

import platform
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from scipy.special import expit, logit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline, make_union

from .artifact import Artifact, index_of, nodes_of
from .evaluation import choose_thresholds
from .features import HashedNgrams, chunks
from .kernels import DEPTH, INPUTS, LABEL_COUNT, Model, inputs_of_texts
from .labels import LABELS
from .linear import bayes_ratios, fit_logistic
from .normalise import normalise, table
from .obfuscation import obfuscate
from .recipes import RECIPES
from .templates import GROUPS, IDENTITIES, training_sentences

Progress = Callable[[str, float], None]
FOLDS = 3
COST = np.array([2, 1, 1.5, 2, 1.5, 2], np.float32)  # by label, found by experiment
FEWEST_POSITIVES = 20
DISGUISED = 0.2  # share of the flagged rows, twice that of the others, trained on in a disguised copy too
# The normaliser undoes the other kinds.
DISGUISES = ("stars", "stars", "stars", "swapped", "swapped", "leet", "repeated", "spaced")
COPY_WEIGHT = 0.2
SENTENCE_COST, SENTENCE_WEIGHT = 1.0, 0.3
IDENTITY_PRIOR = 0.003  # how freely the n-grams of a group's name may speak for or against "toxic"
# The other labels know groups by their names, which "toxic" has unlearned: its trees see nothing of them.
OF_OTHERS = [k for k, name in enumerate(INPUTS) if name[-2:] in ("_1", "_2", "_3", "_4", "_5")]
SAFE_SHARE = 4  # of the rows that no label is likely for, the second level sees one in so many, weighted


class Predictor(Protocol):
    """What every recipe gives."""

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 6) probabilities."""
        ...


@dataclass(frozen=True)
class Reference:
    """A fitted scikit-learn reference."""

    pipeline: Any

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 6) probabilities."""
        return np.column_stack([p[:, 1] for p in self.pipeline.predict_proba(texts)])


@dataclass(frozen=True)
class Fitted:
    """The base recipe's outcome: the model, and the scikit-learn parts it was made of."""

    model: Model
    thresholds: np.ndarray  # (6,)
    rules: list[str]  # where each threshold comes from
    ngrams: HashedNgrams
    trees: "Trees"
    settings: dict[str, Any]

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 6) calibrated probabilities by sparse matrix and scikit-learn; the scorer gives the same."""
        inputs = level_two(self.model, texts)
        weights = self.model.weights[:, :LABEL_COUNT] * self.model.scale
        inputs[:, :LABEL_COUNT] = self.ngrams.transform(texts) @ weights + self.model.intercept
        return expit(self.trees.logits(inputs) * self.model.slope + self.model.offset)

    def artifact(self, **facts: Any) -> Artifact:
        """The model as an artifact; `facts` (name, dataset_sha256, git_commit, metrics) join its manifest."""
        made = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "libraries": {name: version(name) for name in ("numpy", "numba", "scipy", "scikit-learn")},
            "python": platform.python_version(),
            "settings": self.settings,
            "threshold_rules": dict(zip(LABELS, self.rules, strict=True)),
        }
        return Artifact.build(self.model, self.thresholds, made | facts)


def fit(
    texts: Sequence[str],
    labels: np.ndarray,
    *,
    recipe: str = "base",
    seed: int = 0,
    sample_weight: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Fitted | Reference:
    """Fit a recipe on `texts` and `labels` (n, 6) of 0/1.

    `sample_weight` (n,) says how much each row counts: for calibration and thresholds at the natural rate,
    `evaluation.natural_weights`. `progress` is told the stage and the share done. Raises ValueError on input
    of the wrong shape, on an unknown recipe and on fewer than 100 texts.
    """
    labels = np.ascontiguousarray(labels, dtype=np.int8)
    if labels.shape != (len(texts), LABEL_COUNT) or np.any((labels != 0) & (labels != 1)):
        raise ValueError(f"labels must be 0 or 1 in shape ({len(texts)}, {LABEL_COUNT}), not {labels.shape}")
    if len(texts) < 100:
        raise ValueError(f"{len(texts)} texts are too few to train on: give at least 100")
    weight = np.ones(len(texts)) if sample_weight is None else np.asarray(sample_weight, float)
    if weight.shape != (len(texts),) or not np.all(weight >= 0):
        raise ValueError(f"sample_weight must be {len(texts)} numbers of at least 0")
    tell = progress or (lambda stage, share: None)
    if recipe == "base":
        return _fit_base(list(texts), labels, weight, seed, tell)
    if recipe in ("plain", "strong"):
        tell("fit", 0.0)
        pipeline = _plain() if recipe == "plain" else _strong()
        return Reference(pipeline.fit(texts, labels))
    raise ValueError(f"unknown recipe {recipe!r}: choose from {', '.join(RECIPES)}")


def _clean(text: str) -> str:
    return normalise(text)[0]


def _plain() -> Any:
    words = TfidfVectorizer(
        max_features=10_000, ngram_range=(1, 2), stop_words="english", preprocessor=_clean
    )
    return make_pipeline(words, MultiOutputClassifier(LogisticRegression(max_iter=1000)))


def _strong() -> Any:
    words = TfidfVectorizer(
        max_features=10_000, sublinear_tf=True, strip_accents="unicode", token_pattern=r"\w+"
    )
    chars = TfidfVectorizer(
        max_features=50_000, sublinear_tf=True, strip_accents="unicode", analyzer="char", ngram_range=(2, 6)
    )
    return make_pipeline(
        make_union(words, chars), MultiOutputClassifier(LogisticRegression(solver="liblinear", C=1.0))
    )


def _fit_base(texts: list[str], labels: np.ndarray, weight: np.ndarray, seed: int, tell: Progress) -> Fitted:
    tell("features", 0.0)
    more = _augment(texts, labels, weight, seed)
    ngrams = HashedNgrams(minimum=int(np.clip(len(texts) / 3000, 3, 20))).fit(more.texts)
    model, inputs = _first_level(more, ngrams, seed, tell)
    crossed = np.empty((len(texts), LABEL_COUNT))
    half = more.folds % 2 == 0
    for k, part in enumerate((half, ~half)):
        tell("second level", 0.6 + 0.1 * k)
        trees = _boost(inputs[~part], more, ~part, seed)
        mine = part[: len(texts)]
        crossed[mine] = trees.logits(inputs[: len(texts)][mine])
    tell("second level", 0.8)
    trees = _boost(inputs, more, np.ones(len(inputs), bool), seed)
    slope, offset = _calibrate(crossed, labels, weight)
    model = _with_trees(model, trees)._replace(slope=slope, offset=offset)
    probabilities = expit(crossed * slope + offset)
    thresholds, rules = choose_thresholds(labels, probabilities, weight)
    tell("done", 1.0)
    settings = {
        "seed": seed,
        "folds": FOLDS,
        "cost": COST.tolist(),
        "minimum": ngrams.minimum,
        "rows": len(texts),
    }
    return Fitted(model, thresholds, rules, ngrams, trees, settings)


def _first_level(more: "_Rows", ngrams: HashedNgrams, seed: int, tell: Progress) -> tuple[Model, np.ndarray]:
    """The linear model of all rows, and each row's inputs to the second level by one that never saw it."""
    indices, indptr = ngrams.indices(more.texts)
    identities = np.unique(ngrams.indices(IDENTITIES + GROUPS)[0])

    def linear(rows: np.ndarray) -> Model:
        y, cost = more.labels[rows], more.cost[rows]
        prior = bayes_ratios(indices, indptr, rows, y, cost, len(ngrams.counts_)) ** 2
        prior[identities, 0] *= IDENTITY_PRIOR
        weights, intercept = fit_logistic(indices, indptr, rows, y, COST * cost, prior, seed=seed)
        return _model(ngrams.bits_, weights, intercept)

    inputs = np.empty((len(more.texts), len(INPUTS)), np.float32)
    for fold in range(FOLDS):
        tell("first level", 0.1 + 0.1 * fold)
        held = np.flatnonzero(more.folds == fold)
        inputs[held] = level_two(linear(np.flatnonzero(more.folds != fold)), [more.texts[i] for i in held])
    tell("first level", 0.1 + 0.1 * FOLDS)
    return linear(np.arange(len(more.texts))), inputs


@dataclass(frozen=True)
class _Rows:
    """Training rows: the given ones first, then disguised copies of some, then template sentences."""

    texts: list[str]
    labels: np.ndarray  # (n, 6)
    cost: np.ndarray  # (n, 6) float32: how much a label of a row counts for the first level
    weight: np.ndarray  # (n, 6): and for the second
    folds: np.ndarray  # (n,): a copy is in its original's fold, near-duplicates are in the same


def _augment(texts: list[str], labels: np.ndarray, weight: np.ndarray, seed: int) -> _Rows:
    flagged = labels.any(axis=1)
    even = weight.copy()
    for rows in (flagged, ~flagged):
        # A class weighted as a whole only moves the intercept, and the second level sees to that.
        even[rows] /= weight[rows].mean() if weight[rows].sum() else 1.0
    folds = np.array([_near(text) % FOLDS for text in texts])
    rng = np.random.default_rng(seed)
    copied = np.flatnonzero(rng.random(len(texts)) < np.where(flagged, DISGUISED, DISGUISED / 2))
    copies: list[str] = []
    for part, kind in zip(np.array_split(copied, len(DISGUISES)), DISGUISES, strict=True):
        copies += obfuscate([texts[i] for i in part], kind, seed=seed + len(copies))
    sentences = training_sentences(seed)
    # In a small data set a small part of them, lest they outweigh it.
    taken = np.flatnonzero(rng.random(len(sentences.texts)) < len(texts) / 60_000)
    count = len(taken)
    toxic = np.zeros((count, LABEL_COUNT), np.int8)
    toxic[:, 0] = sentences.toxic[taken]
    only = (np.arange(LABEL_COUNT) == 0).astype(np.float32)
    wide = np.repeat(weight[:, None], LABEL_COUNT, axis=1)
    return _Rows(
        [*texts, *copies, *(sentences.texts[i] for i in taken)],
        np.concatenate([labels, labels[copied], toxic]),
        np.concatenate(
            [np.repeat(even[:, None], LABEL_COUNT, axis=1),
             np.repeat(even[copied, None], LABEL_COUNT, axis=1),
             np.tile(only * SENTENCE_COST, (count, 1))]
        ).astype(np.float32),
        np.concatenate(
            [wide, wide[copied] * COPY_WEIGHT, np.tile(only * SENTENCE_WEIGHT, (count, 1))]
        ),
        np.concatenate([folds, folds[copied], rng.integers(FOLDS, size=count)]),
    )  # fmt: skip


def _near(text: str) -> int:
    """A number that near-duplicates share: from the first 200 characters, normalised."""
    return zlib.crc32(normalise(text[:400])[0][:200].encode("utf-8", "surrogatepass"))


def _model(bits: np.ndarray, weights: np.ndarray, intercept: np.ndarray) -> Model:
    """A model of the first level alone, its weights rounded to 16 bits."""
    scale = np.maximum(np.abs(weights).max(axis=0, initial=0), 1e-9).astype(np.float64) / 32767
    rounded = np.zeros((len(weights), 8), np.int16)
    rounded[:, :LABEL_COUNT] = np.rint(weights / scale)
    none, zeros = np.zeros(0, np.int32), np.zeros(LABEL_COUNT)
    return Model(
        index_of(bits), rounded, scale, intercept, none, zeros.astype(np.int32), nodes_of(none, none, none),
        none.astype(np.float64), zeros, np.ones(LABEL_COUNT), zeros,
    )  # fmt: skip


def level_two(model: Model, texts: Sequence[str]) -> np.ndarray:
    """(n, inputs) float32: what the second level sees, by the scorer's own compiled pass."""
    inputs = np.empty((len(texts), len(INPUTS)), np.float32)
    seen = np.zeros(len(model.weights), np.uint32)
    tag = 0
    for first, codes, ends, room in chunks(texts):
        if tag + len(codes) + len(ends) >= 1 << 32:
            seen[:], tag = 0, 0
        tag = inputs_of_texts(codes, ends, table(), room, model, seen, tag, inputs[first : first + len(ends)])
    return inputs


@dataclass(frozen=True)
class Trees:
    """The second level. Inputs are binned once for all labels, by `edges` (inputs, 62) float32."""

    boosters: list[HistGradientBoostingClassifier | None]  # None for a label with too few rows of either kind
    base: np.ndarray  # (6,) logits the trees start from
    edges: np.ndarray

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """(n, 6) uncalibrated logits."""
        bins = _bins(inputs, self.edges)
        return np.column_stack(
            [
                np.full(len(inputs), start) if booster is None else booster.decision_function(bins)
                for booster, start in zip(self.boosters, self.base, strict=True)
            ]
        )


def _bins(inputs: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n, inputs) how many edges of its input lie below each value."""
    columns = [np.searchsorted(edges[k], inputs[:, k]) for k in range(len(edges))]
    return np.column_stack(columns).astype(np.float32)


def _boost(inputs: np.ndarray, more: _Rows, chosen: np.ndarray, seed: int) -> Trees:
    """Fit the trees of every label on the `chosen` rows of `more`, whose inputs are `inputs`."""
    boosters: list[HistGradientBoostingClassifier | None] = []
    base = np.empty(LABEL_COUNT)
    most = max(20, len(inputs) // 200)
    likely = inputs[:, :LABEL_COUNT].max(axis=1)
    safe = (likely < np.quantile(likely, 0.7)) & ~more.labels[chosen].any(axis=1)
    kept = ~safe | (np.arange(len(inputs)) % SAFE_SHARE == 0)
    shares = np.where(safe, SAFE_SHARE, 1)
    edges = np.quantile(inputs[kept], np.linspace(0, 1, 64)[1:-1], axis=0).T.astype(np.float32).copy()
    bins = _bins(inputs, edges)
    for label in range(LABEL_COUNT):
        rows = kept & (more.weight[chosen, label] > 0)
        y, weight = more.labels[chosen, label][rows], (more.weight[chosen, label] * shares)[rows]
        if min(y.sum(), len(y) - y.sum()) < FEWEST_POSITIVES:
            boosters.append(None)
            base[label] = logit((np.sum(weight * y) + 0.5) / (weight.sum() + 1))
            continue
        rare = y.sum() < 2000
        booster = HistGradientBoostingClassifier(
            learning_rate=0.06, max_iter=min(most, 80 if rare else 120), max_leaf_nodes=5 if rare else 16,
            max_depth=DEPTH, max_features=0.4, min_samples_leaf=60, l2_regularization=5.0, max_bins=64,
            early_stopping=False, random_state=seed,
        )  # fmt: skip
        seen = bins[rows]
        if label == 0:
            seen[:, OF_OTHERS] = 0
        booster.fit(seen, y, sample_weight=weight)
        boosters.append(booster)
        base[label] = booster._baseline_prediction.item()
    return Trees(boosters, base, edges)


def telling_words(
    model: Model, texts: Sequence[str], *, count: int = 20, minimum: int = 20
) -> dict[str, list[tuple[str, float]]]:
    """Per label the `count` words, of those in at least `minimum` of the texts, that speak most for it.

    The figure is the sum of the weights of all n-grams of the word.
    """
    found = Counter(word for text in texts for word in set(normalise(text)[0].split()))
    words = sorted(word for word, number in found.items() if number >= minimum)
    pull = level_two(model, words)[:, INPUTS.index("word_0") :] if words else np.empty((0, LABEL_COUNT))
    return {
        label: [(words[i], float(pull[i, k])) for i in np.argsort(-pull[:, k], kind="stable")[:count]]
        for k, label in enumerate(LABELS)
    }


def _calibrate(logits: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset per label (Platt scaling) on logits of rows the trees were not fitted on."""
    slope, offset = np.ones(LABEL_COUNT), np.zeros(LABEL_COUNT)
    for label in range(LABEL_COUNT):
        y = labels[:, label]
        if min(y.sum(), len(y) - y.sum()) < FEWEST_POSITIVES:
            continue
        line = LogisticRegression(C=1e6).fit(logits[:, [label]], y, sample_weight=weight)
        slope[label], offset[label] = line.coef_.item(), line.intercept_.item()
    return slope, offset


def _with_trees(model: Model, trees: Trees) -> Model:
    """Lay the trees out breadth first: siblings are neighbours, a leaf is its own left child."""
    roots, ends = [], []
    inputs: list[int] = []
    thresholds: list[float] = []
    lefts: list[int] = []
    values: list[float] = []
    for booster in trees.boosters:
        for (predictor,) in booster._predictors if booster is not None else []:
            roots.append(len(inputs))
            queue = [0]
            for place, index in enumerate(queue):
                node = predictor.nodes[index]
                if node["is_leaf"]:
                    inputs.append(0)
                    thresholds.append(np.inf)
                    lefts.append(roots[-1] + place)
                    values.append(float(node["value"]))
                else:
                    inputs.append(int(node["feature_idx"]))
                    thresholds.append(trees.edges[node["feature_idx"], int(node["num_threshold"])])
                    lefts.append(roots[-1] + len(queue))
                    values.append(0.0)
                    queue += [int(node["left"]), int(node["right"])]
        ends.append(len(roots))
    return model._replace(
        roots=np.array(roots, np.int32), tree_end=np.array(ends, np.int32), base=trees.base,
        nodes=nodes_of(np.array(inputs), np.array(thresholds, np.float32), np.array(lefts)),
        node_value=np.array(values, np.float64),
    )  # fmt: skip
