"""Reads comments with the trained encoder: six logits of each text. `scorer` and `training` call it.

`manage.py train_encoder` writes the files. ONNX Runtime and SentencePiece are imported when an encoder is
loaded, so that processes that never read do not pay for them.
"""

import base64
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np

from .labels import LABELS
from .languages import replace_imitations
from .normalise import normalise, undo_obfuscation

logger = logging.getLogger(__name__)

FORMAT = 2
FOLDER = Path(__file__).parent / "data" / "encoder"
MANIFEST, GRAPH, TOKENIZER = "manifest.json", "model.onnx", "tokenizer.json"
# The manifest's calibration for languages with too few labelled texts for one of their own.
OTHER_LANGUAGES = "other"
# More characters than a piece has in any text that a person wrote.
CHARACTERS_PER_PIECE = 24
# The first level's logit counts up to this. Higher ones come from single words, whose meaning the encoder
# knows better. Held-out comments are ranked as well with this limit.
HIGHEST_FIRST = 1.0
KEY_BYTES = 16
_LONG_CHARACTERS = 300
# Letters that are written upside down, in reverse order. Some letters look like another one's turned shape.
_TURNED = str.maketrans("ɐqɔpǝɟƃɥᴉıɾʞןɯuodbɹsʇnʌʍxʎz¡¿˙", "abcdefghiijklmnopqrstuvwxyz!?.")
_IS_TURNED = re.compile("[ɐɔǝɟƃɥᴉɾʞɯɹʇʌʍʎ]")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,80}>")
_MENTION = re.compile(r"(?:https?://|www\.)\S+|[@#]\w+")  # its symbols are not obfuscation
_V_FOR_U = re.compile(r"\b(?=\w{4})[b-df-hj-np-tv-xz]*v[b-df-hj-np-tv-xz]*\b", re.IGNORECASE)
_LETTER_PER_LINE = re.compile(r"(?<!\S)\S(?:\n\S){2,}(?!\S)")


def length_factor(characters: Any) -> Any:
    """Return how much more probable toxicity must be for a text to be read than for one of 100 characters.

    Reading a longer text takes longer and changes the result less often, because more of its words count.
    """
    return (np.clip(characters, 1, _LONG_CHARACTERS) / 100) ** 2


class Mode(StrEnum):
    """Which comments the encoder reads."""

    AUTO = "auto"  # those for which reading may change the result, and all that are not surely English
    ALWAYS = "always"
    NEVER = "never"


class EncoderError(ValueError):
    """The encoder can't be used; the message is one sentence with the reason and what to do."""


class Tokenizer:
    """SentencePiece with the Unigram model of a `tokenizer.json`, the format of the library `tokenizers`.

    For the same pieces, `tokenizers` takes 57 MB instead of 17, and seven times as long for a text.
    """

    def __init__(self, content: bytes) -> None:
        from sentencepiece import SentencePieceProcessor
        from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

        tokenizer = json.loads(content)
        special = {token["id"] for token in tokenizer["added_tokens"]}
        unknown = tokenizer["model"]["unk_id"]
        model = ModelProto()
        model.trainer_spec.unk_id = unknown
        model.trainer_spec.bos_id = model.trainer_spec.eos_id = model.trainer_spec.pad_id = -1
        for normalizer in (tokenizer["normalizer"] or {}).get("normalizers", ()):
            if normalizer["type"] == "Precompiled":
                rules = base64.b64decode(normalizer["precompiled_charsmap"])
                model.normalizer_spec.precompiled_charsmap = rules
        kinds = ModelProto.SentencePiece
        for index, (piece, score) in enumerate(tokenizer["model"]["vocab"]):
            kind = kinds.CONTROL if index in special else kinds.NORMAL
            model.pieces.add(piece=piece, score=score, type=kinds.UNKNOWN if index == unknown else kind)
        self._pieces = SentencePieceProcessor(model_proto=model.SerializeToString())
        tokens = tokenizer["post_processor"]["special_tokens"]
        self._begin, self._end = tokens["<s>"]["ids"], tokens["</s>"]["ids"]

    def encode(self, text: str, max_pieces: int) -> list[int]:
        """Return the ids of the text's first pieces, between those for its begin and end."""
        count = max_pieces - len(self._begin) - len(self._end)
        return [*self._begin, *self._pieces.encode(text)[:count], *self._end]


class Encoder:
    """An encoder in memory; every method may be called from any thread.

    Attributes:
        languages: the languages that it reads besides English, by ISO 639-1 code, and for each its `state`,
            "supported" or "experimental". If it was measured, also the number of held-out `texts`, and for
            `toxic` the `roc_auc` and the calibration error `ece`.

    Raises:
        EncoderError: a file is missing, damaged, or made for another release.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        import onnxruntime

        try:
            content = (folder / MANIFEST).read_bytes()
            manifest = json.loads(content)
            if manifest["format"] != FORMAT or manifest["labels"] != list(LABELS):
                raise EncoderError(f"The encoder in {folder} is for another release: train it again.")
            files = {name: (folder / name).read_bytes() for name in (GRAPH, TOKENIZER)}
            for name, data in files.items():
                if hashlib.sha256(data).hexdigest() != manifest["files"][name]["sha256"]:
                    raise EncoderError(
                        f"{name} in {folder} is damaged (its SHA-256 is not the manifest's): restore it."
                    )
            self.max_pieces: int = manifest["max_pieces"]
            self.languages: dict[str, dict[str, Any]] = manifest["languages"]
            self._calibrations = {
                language: np.array([calibration[label] for label in LABELS])
                for language, calibration in manifest["calibration"].items()
            }
            self._common = self._calibrations[OTHER_LANGUAGES]
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise EncoderError(
                f"The encoder in {folder} can't be read ({error}): restore its files or set ENCODER=never."
            ) from error
        self.sha256 = hashlib.sha256(content).hexdigest()
        options = onnxruntime.SessionOptions()
        # It computes in the caller's thread, so processes that are forked after loading can use the session.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The fused kernel for an addition and the following layer normalisation is slower than the two alone.
        # From the path, because a session keeps the bytes that it is given.
        self._session = onnxruntime.InferenceSession(
            folder / GRAPH,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],
        )
        self._tokenizer = Tokenizer(files[TOKENIZER])
        self._known: dict[bytes, np.ndarray] | None = None

    def logits(self, texts: Sequence[str], *, may_be_english: bool = True) -> np.ndarray:
        """Return the (n, labels) float32 logits of texts, each read up to `max_pieces` pieces.

        A text with obfuscated words is read as it is and normalised; the higher logit of each label counts. A
        long one is only read normalised, which finds as much in half the time.

        Args:
            may_be_english: False for texts that are certainly in another language. They are read once,
                because normalisation changes their words.
        """
        result = np.empty((len(texts), len(LABELS)), np.float32)
        known = self._known
        for row, text in enumerate(texts):
            if known is None:
                result[row] = self._logits_of(text, may_be_english)
                continue
            key = reading_key(text, may_be_english=may_be_english)
            if key not in known:
                known[key] = self._logits_of(text, may_be_english)
            result[row] = known[key]
        return result

    @contextmanager
    def read_once(self, known: dict[bytes, np.ndarray]) -> Iterator[None]:
        """Within the context, use the known logits of texts, and add those of the texts that are read.

        Args:
            known: (labels,) float32 logits by `reading_key`.
        """
        self._known = known
        try:
            yield
        finally:
            self._known = None

    def _logits_of(self, text: str, may_be_english: bool) -> np.ndarray:
        head = text[: CHARACTERS_PER_PIECE * self.max_pieces]
        head = head.encode("utf-8", "replace").decode()  # no surrogates
        texts_to_read = variants(head, may_be_english=may_be_english)
        if len(head) > _LONG_CHARACTERS:
            texts_to_read = texts_to_read[-1:]
        result: np.ndarray = np.maximum.reduce(list(map(self._read, texts_to_read)))
        return result

    def _read(self, text: str) -> np.ndarray:
        """Return the (labels,) logits of one text; on a CPU, batches are not faster."""
        ids = np.array([self._tokenizer.encode(text, self.max_pieces)], np.int64)
        logits: np.ndarray
        (logits,) = self._session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return logits[0]

    def calibration(self, language: str) -> np.ndarray:
        """Return the (2, labels) slope and offset that calibrate logits of texts in a language."""
        return self._calibrations.get(language, self._common).T


def reading_key(text: str, *, may_be_english: bool = True) -> bytes:
    """Return a key of the logits of a text, which `Encoder.logits` reads in one of two ways."""
    person = b"" if may_be_english else b"not English"
    return hashlib.blake2b(
        text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES, person=person
    ).digest()


def reveal(text: str) -> str:
    """Return a text without HTML tags, character references, a letter per line and letters upside down."""
    if "&" in text or "<" in text:
        text = _TAG.sub("", unescape(text))
    if "\n" in text:
        text = _LETTER_PER_LINE.sub(lambda match: match[0].replace("\n", ""), text)
    if not text.isascii() and 5 * len(_IS_TURNED.findall(text)) > len(text):
        text = text[::-1].lower().translate(_TURNED)
    return text


def variants(text: str, *, may_be_english: bool = True) -> list[str]:
    """Return the text, and if it is obfuscated also what it says, in plain letters if it may be English."""
    revealed = reveal(text)
    plain = _in_plain_letters(revealed) if may_be_english else None
    return list(dict.fromkeys([text, revealed if plain is None else plain]))


def _in_plain_letters(text: str) -> str | None:
    """Return an obfuscated text in ASCII letters; None if it is not obfuscated or in another script.

    Words with v for u and no vowel count as obfuscated.
    """
    words = _V_FOR_U.sub(lambda match: match[0].replace("v", "u").replace("V", "U"), text)
    plain = undo_obfuscation(_MENTION.sub(" ", words))
    if plain is None and (words != text or (not text.isascii() and replace_imitations(text) != text)):
        plain = normalise(words)[0]
    return plain if plain and plain.isascii() else None


@dataclass
class Configuration:
    """Which encoder this process reads with, and what it reads."""

    mode: Mode = Mode.AUTO
    folder: Path = FOLDER


configuration = Configuration()


@contextmanager
def by_words_only() -> Iterator[None]:
    """Within the context, load models without the encoder."""
    mode, configuration.mode = configuration.mode, Mode.NEVER
    try:
        yield
    finally:
        configuration.mode = mode


@cache
def load(folder: Path) -> Encoder:
    """Return the encoder in a folder, which is loaded once in a process.

    Raises:
        EncoderError: see `Encoder`.
    """
    return Encoder(folder)


def load_if_usable(expected_sha256: str | None = None) -> Encoder | None:
    """Return the site's encoder; None if it is not to be used, or if it can't be, which is logged.

    Args:
        expected_sha256: the hash of the encoder that a model was fitted with; None for any.
    """
    if configuration.mode == Mode.NEVER:
        return None
    try:
        reader = load(configuration.folder)
        if expected_sha256 not in (None, reader.sha256):
            raise EncoderError("The model was fitted with another encoder: retrain the model.")
    except EncoderError as error:
        logger.warning("Comments are scored by their words only. %s", error)
        return None
    return reader


@contextmanager
def read_once() -> Iterator[None]:
    """Within the context, the site's encoder reads each text once, although several models score it."""
    reader = load_if_usable()
    with reader.read_once({}) if reader else nullcontext():
        yield
