"""The settings of an encoder: its size, its training and its export. Manifests and MLflow record them."""

from dataclasses import dataclass

# Languages whose pieces stay in the vocabulary, by ISO 639-1 code.
LANGUAGES = (
    "ar", "cs", "da", "de", "en", "es", "fr", "hi", "id", "it",
    "ja", "ko", "nl", "pl", "pt", "ru", "sv", "tr", "zh",
)  # fmt: skip


@dataclass(frozen=True)
class EncoderConfig:
    """All settings that a trained encoder depends on, apart from its base and its data."""

    seed: int = 0

    # Size. The layers are those of the base, counted from 0.
    layers: tuple[int, ...] = (0, 2, 4, 6, 8, 10)
    vocabulary: int = 68_000  # pieces
    max_pieces: int = 128  # of a text, in training
    max_served_pieces: int = 128  # of a text, in the exported graph

    # Training. English rows first, then mixtures of all sources.
    english_rows: int = 20_000
    mixtures: int = 2
    batch_size: int = 32
    learning_rate: float = 1.3e-4
    head_rate: float = 10.0  # times the learning rate
    warm_up: float = 0.06  # fraction of the steps of a phase
    final_rate: float = 0.05  # fraction of the learning rate at the end of a phase
    weight_decay: float = 0.01
    dropout: float = 0.1
    # Of an exported base's weights, in the mean of old and new weights that is exported.
    base_weight: float = 0.0

    # A mixture, in rows.
    english_again: int = 16_000
    rows_per_source: int = 1_100
    obfuscated_copies: int = 4_000
    identity_sentences: int = 2_000
    everyday_sentences: int = 7_000
    contrast_sentences: int = 10_000
    meaning_repeats: int = 4


@dataclass(frozen=True)
class Progress:
    """How far a phase is.

    Attributes:
        loss: the mean loss of about the last 50 batches.
        seconds_left: the expected time until the end of the phase.
    """

    step: int
    steps: int
    loss: float
    seconds_left: float
    milliseconds_per_row: float
