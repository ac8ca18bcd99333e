"""The settings of a training run. `training.fit` uses them, manifests and MLflow record them."""

from dataclasses import dataclass

RECIPES = ("two_level", "tfidf_baseline", "tfidf_char_baseline")


@dataclass(frozen=True)
class TrainingConfig:
    """All settings that a fitted model depends on, apart from its data.

    `two_level` is the model that the product serves. The baselines are scikit-learn pipelines for comparison;
    they depend on the recipe only.
    """

    recipe: str = "two_level"
    seed: int = 0

    # An n-gram is a feature if it is in one of `texts_per_min_df` texts, within these limits.
    texts_per_min_df: int = 3_000
    smallest_min_df: int = 3
    largest_min_df: int = 20

    # First stage.
    folds: int = 3
    label_cost: tuple[float, ...] = (2, 1, 1.5, 2, 1.5, 2)  # found by experiment
    solver_passes: int = 6
    solver_tolerance: float = 0.02
    # Factor for the prior variance of the weights for `toxic` of n-grams that name an identity group.
    identity_prior: float = 0.003

    # Augmentation. Fraction of the labelled texts that get an obfuscated copy; half of it for other texts.
    obfuscated_share: float = 0.2
    # The normaliser undoes the kinds of obfuscation that are not listed.
    obfuscations: tuple[str, ...] = (
        "masked", "masked", "masked", "swapped", "swapped", "leet", "repeated", "spaced",
    )  # fmt: skip
    copy_weight: float = 0.2
    texts_for_all_sentences: int = 60_000  # a smaller data set gets a smaller part of the template sentences
    sentence_cost: float = 1.0
    sentence_weight: float = 0.3
    # The same for everyday sentences and contrast pairs.
    project_cost: float = 1.0
    project_weight: float = 0.3

    # Second stage. Of the texts for which no label is likely, every n-th is used, with n times its weight.
    unlikely_quantile: float = 0.7
    unlikely_interval: int = 4
    min_positives: int = 20  # and as many negatives, for a label to be fitted and to get a threshold
    rare_positives: int = 2_000  # a label with fewer gets fewer and smaller trees
    learning_rate: float = 0.06
    max_trees: int = 120
    max_trees_rare: int = 80
    max_leaves: int = 16
    max_leaves_rare: int = 5
    max_features: float = 0.4
    min_samples_leaf: int = 60
    l2_regularization: float = 5.0
    max_bins: int = 64

    # Reading. The prior variance of both levels' weights, and the share of natural traffic that is read.
    head_variance: float = 0.002
    read_share: float = 0.28
    max_read_from: float = 0.05  # the highest probability of the first level up to which texts are not read
    # Among the texts that the encoder was not trained on, so that the threshold of a label is chosen on them.
    # Otherwise it is chosen on the first level's probabilities of all texts.
    min_read_positives: int = 150

    # Thresholds: the highest recall at this precision, if it is at least the minimum; otherwise the best F1.
    target_precision: float = 0.75
    min_recall: float = 0.25

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ValueError(f"unknown recipe {self.recipe!r}: choose from {', '.join(RECIPES)}")
