"""Trains the encoder from its base to the exported files. `manage.py train_encoder` calls it.

It needs the libraries of apps/classifier/encoder_training/requirements.txt.
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer

from apps.classifier import encoder
from apps.classifier.encoder_training.config import LANGUAGES, EncoderConfig, Progress
from apps.classifier.encoder_training.examples import Examples, concatenate
from apps.classifier.encoder_training.export import export, restore, write_manifest
from apps.classifier.encoder_training.fitting import Texts, find_device, fit
from apps.classifier.encoder_training.network import Encoder
from apps.classifier.encoder_training.vocabulary import cut_tokenizer, dump_tokenizer, select_pieces
from apps.classifier.evaluation import calibration_error
from apps.classifier.labels import LABELS
from apps.training import encoder_data
from apps.training.encoder_data import Source
from apps.training.exceptions import TrainingError

# Longer than `max_pieces` pieces of any text that a person wrote.
MAX_CHARACTERS = 3_000
TEXTS_PER_CALL = 1_000
LOSSES = "losses.json"
MIN_ROWS = 10  # with a label, and without it, for its ROC-AUC
MIN_CALIBRATION_ROWS = 250  # about an eighth of a source's texts: those of 2,000 labelled ones
MIN_CALIBRATION_POSITIVES = 20  # and as many negatives
MIN_SUPPORTED_AREA = 0.85
COMMON_RATE = 0.1
PADDING = "<pad>"
Report = Callable[[str, Progress | None], None]


@dataclass(frozen=True)
class Result:
    """A trained encoder, besides its files.

    Attributes:
        params: base, sources and settings, flat.
        metrics: the ROC-AUC by source or language, and label.
        losses: the mean loss by phase and batch.
    """

    params: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    losses: dict[str, dict[int, float]]


def train(
    *, base: str, sources: list[Source], config: EncoderConfig, work: Path, output: Path, report: Report
) -> Result:
    """Train an encoder and export it.

    Args:
        base: a folder, or a name on the hub, of a model with BERT's architecture and a Unigram tokenizer. Or
            the folder of an exported encoder, which is trained further: then its layers and pieces stay, and
            there is no first phase.
        sources: the data sets; the first phase uses those with all labels in English.
        work: the folder of the checkpoints. An interrupted run continues if it is called again with the same
            arguments.
        output: the folder of the exported files, which are written after each phase.
        report: called with the name of each step, and with the progress of a phase.

    Raises:
        TrainingError: the folder `work` belongs to a run with other settings or data.
    """
    work.mkdir(parents=True, exist_ok=True)
    is_folder = Path(base).is_dir()
    description: dict[str, Any] = {"base": Path(base).name if is_folder else base}
    manifest = Path(base) / encoder.MANIFEST
    is_exported = manifest.exists()
    if is_exported:
        earlier = json.loads(manifest.read_text())
        config = replace(
            config, layers=tuple(earlier["config"]["layers"]), vocabulary=earlier["config"]["vocabulary"]
        )
        description = {"base": earlier["base"], "earlier": earlier.get("earlier", [])}
        description["earlier"] += [{name: earlier[name] for name in ("config", "phases")}]
    description["sources"] = [{"name": source.name, "sha256": source.sha256} for source in sources]
    description["config"] = json.loads(json.dumps(asdict(config)))
    _check_same_run(work / "run.json", description)
    parts = {source.name: encoder_data.split(source.examples) for source in sources}
    training = [source.take(parts[source.name]["train"]) for source in sources]
    torch.manual_seed(config.seed)
    if is_exported:
        tokenizer = (Path(base) / encoder.TOKENIZER).read_text()
        model = restore(Path(base), config.dropout)
    else:
        folder = Path(base) if is_folder else Path(huggingface_hub.snapshot_download(base))
        report("Cutting the vocabulary", None)
        kept, tokenizer = _cut_vocabulary(folder, training, config, work)
        model = Encoder.from_base(folder, kept, config.layers, config.dropout)
    model.to(find_device())
    encode = _encoder_of_texts(tokenizer, config.max_pieces)
    padding = Tokenizer.from_str(tokenizer).get_vocab()[PADDING]
    phases = 1 + config.mixtures
    for number in range(2 if is_exported else 1, phases + 1):
        report(f"Preparing phase {number} of {phases}", None)
        examples = _phase_examples(work / f"phase-{number}.json.gz", training, config, number)

        def report_phase(progress: Progress, number: int = number) -> None:
            _add_loss(work / LOSSES, f"loss/phase {number}", progress)
            report(f"Phase {number} of {phases}", progress)

        fit(
            model,
            Texts(examples, encode, padding),
            config,
            checkpoint=work / f"phase-{number}.pt",
            seed=config.seed + number,
            report=report_phase,
        )
        if is_exported and number == phases:
            model.average(restore(Path(base), config.dropout).state_dict(), config.base_weight)
        report("Exporting", None)
        export(
            model,
            tokenizer,
            output,
            max_pieces=config.max_served_pieces,
            description={**description, "phases": number},
        )
    report("Calibrating", None)
    unseen = [source.take(parts[source.name]["second_level"]) for source in sources]
    calibrate(output, unseen)
    report("Evaluating", None)
    held_out = [source.take(parts[source.name]["held_out"]) for source in sources]
    params = {"base": description["base"], **description["config"]}
    params |= {f"sha256/{source.name}": source.sha256 for source in sources}
    return Result(params, evaluate(output, held_out), _read_losses(work / LOSSES))


def _phase_examples(path: Path, training: list[Source], config: EncoderConfig, number: int) -> Examples:
    """Return the examples of a phase from the file, which is written first if it does not exist."""
    if not path.exists():
        if number == 1:
            examples = encoder_data.english_phase(training, config)
        else:
            examples = encoder_data.mixed_phase(training, config, number)
        temporary = path.with_suffix(".tmp")
        with gzip.open(temporary, "wt", encoding="utf-8") as file:
            json.dump([examples.texts, examples.labels.tolist(), examples.languages], file)
        temporary.replace(path)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        texts, labels, languages = json.load(file)
    return Examples(texts, np.array(labels, np.int8).reshape(len(texts), len(LABELS)), languages)


def _read_losses(path: Path) -> dict[str, dict[int, float]]:
    curves = json.loads(path.read_text()) if path.exists() else {}
    return {name: {int(step): loss for step, loss in curve.items()} for name, curve in curves.items()}


def _add_loss(path: Path, name: str, progress: Progress) -> None:
    """Add a loss to the file, so that it survives an interruption."""
    curves = _read_losses(path)
    curves.setdefault(name, {})[progress.step] = progress.loss
    path.write_text(json.dumps(curves))


def _check_same_run(path: Path, description: Mapping[str, Any]) -> None:
    if not path.exists():
        path.write_text(json.dumps(description, indent=1))
    elif json.loads(path.read_text()) != description:
        raise TrainingError(
            f"{path.parent} has the checkpoints of a run with other settings or data: give another "
            "--work-dir, or delete it."
        )


def _cut_vocabulary(
    folder: Path, training: list[Source], config: EncoderConfig, work: Path
) -> tuple[list[int], str]:
    """Return the ids of the kept pieces, and the content of the new `tokenizer.json`."""
    kept_file = work / "kept.json"
    original = json.loads((folder / "tokenizer.json").read_text())
    if not kept_file.exists():
        tokenizer = Tokenizer.from_str(json.dumps(original))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        counts: dict[str, dict[int, float]] = {}
        for name, texts, weights in encoder_data.vocabulary_sources(training):
            counts[name] = defaultdict(float)
            for start in range(0, len(texts), TEXTS_PER_CALL):
                part = [text[:MAX_CHARACTERS] for text in texts[start : start + TEXTS_PER_CALL]]
                for encoding, weight in zip(
                    tokenizer.encode_batch(part, add_special_tokens=False), weights[start:], strict=False
                ):
                    for index in encoding.ids:
                        counts[name][index] += weight
        kept_file.write_text(json.dumps(select_pieces(original, counts, config.vocabulary)))
    kept = json.loads(kept_file.read_text())
    return kept, dump_tokenizer(cut_tokenizer(original, kept))


def _encoder_of_texts(tokenizer: str, max_pieces: int) -> Callable[[list[str]], list[list[int]]]:
    loaded = Tokenizer.from_str(tokenizer)
    loaded.enable_truncation(max_pieces)

    def encode(texts: list[str]) -> list[list[int]]:
        return [
            encoding.ids
            for start in range(0, len(texts), TEXTS_PER_CALL)
            for encoding in loaded.encode_batch(
                [text[:MAX_CHARACTERS] for text in texts[start : start + TEXTS_PER_CALL]]
            )
        ]

    return encode


def calibrate(folder: Path, sources: list[Source]) -> None:
    """Add to the manifest the calibration of each language other than English, by Platt scaling.

    A language's calibration is valid for the rate of toxic texts in its sources. Languages with fewer than
    MIN_CALIBRATION_ROWS texts, and texts of uncertain language, share one for the rate COMMON_RATE.

    Args:
        sources: texts that the encoder was not trained on.
    """
    reader = encoder.Encoder(folder)
    manifest = json.loads((folder / encoder.MANIFEST).read_text())
    examples = concatenate(
        [source.examples for source in sources if set(source.examples.languages) != {"en"}]
    )
    logits = reader.logits(examples.texts, may_be_english=False)
    languages = np.array(examples.languages)
    identity = {label: [1.0, 0.0] for label in LABELS}
    common = _calibration(logits, examples.labels, identity, rate=COMMON_RATE)
    manifest["calibration"] = {encoder.OTHER_LANGUAGES: common}
    for language in sorted(set(examples.languages)):
        rows = languages == language
        if rows.sum() >= MIN_CALIBRATION_ROWS:
            manifest["calibration"][language] = _calibration(logits[rows], examples.labels[rows], common)
    write_manifest(folder, manifest)


def _calibration(
    logits: np.ndarray, labels: np.ndarray, default: dict[str, list[float]], rate: float | None = None
) -> dict[str, list[float]]:
    """Return slope and offset of each label; the default for labels with few positives or negatives.

    Args:
        rate: of positives for which the calibration is valid; by default the rate in the rows.
    """
    result = {}
    for column, label in enumerate(LABELS):
        known = labels[:, column] >= 0
        y = labels[known, column]
        result[label] = default[label]
        if min(y.sum(), len(y) - y.sum()) >= MIN_CALIBRATION_POSITIVES:
            odds = y.mean() / (1 - y.mean())
            weight = np.where(y, rate / (1 - rate) / odds, 1.0) if rate else None
            regression = LogisticRegression(C=1e6).fit(logits[known][:, [column]], y, sample_weight=weight)
            result[label] = [regression.coef_.item(), regression.intercept_.item()]
    return result


def evaluate(folder: Path, sources: list[Source]) -> dict[str, dict[str, float]]:
    """Return the exported encoder's ROC-AUC for each label and source, and add languages to the manifest.

    Labels of which a source has fewer than ten positives or ten negatives are left out. The manifest gets for
    each language other than English its state, the number of held-out texts, and for `toxic` the ROC-AUC, as
    the mean of its sources, and the expected calibration error.
    """
    reader = encoder.Encoder(folder)
    manifest = json.loads((folder / encoder.MANIFEST).read_text())
    result: dict[str, dict[str, float]] = {}
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for source in sources:
        (language,) = set(source.examples.languages)
        logits = reader.logits(source.examples.texts, may_be_english=language == "en")
        result[source.name] = _areas(source.examples.labels, logits)
        if "toxic" in result[source.name]:
            y = source.examples.labels[:, 0]
            slope, offset = reader.calibration(language)[:, 0]
            parts.setdefault(language, []).append((y[y >= 0], expit(slope * logits[y >= 0, 0] + offset)))
    for language in LANGUAGES:
        entry: dict[str, Any] = {"state": "experimental"}
        if of_language := parts.get(language):
            area = float(np.mean([roc_auc_score(y, p) for y, p in of_language]))
            y, p = map(np.concatenate, zip(*of_language, strict=True))
            entry = {
                "state": "supported" if area >= MIN_SUPPORTED_AREA else "experimental",
                "texts": len(y),
                "roc_auc": round(area, 4),
                "ece": round(calibration_error(y, p, np.ones(len(y))), 4),
            }
            result[language] = {"toxic": area}
        if language != "en":
            manifest["languages"][language] = entry
    write_manifest(folder, manifest)
    return result


def _areas(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    areas = {}
    for column, label in enumerate(LABELS):
        known = labels[:, column] >= 0
        positives = int((labels[known, column] == 1).sum())
        if min(positives, known.sum() - positives) >= MIN_ROWS:
            areas[label] = float(roc_auc_score(labels[known, column], logits[known, column]))
    if len(areas) == len(LABELS):
        areas["mean"] = float(np.mean(list(areas.values())))
    return areas
