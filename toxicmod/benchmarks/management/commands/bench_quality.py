"""`manage.py bench_quality`: what the encoder adds to the quality of the scores, and what it costs."""

import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from django.core.management.base import BaseCommand
from sklearn.metrics import roc_auc_score

from apps.classifier import encoder, everyday, meaning
from apps.classifier.bias_audit import AUDITED_LANGUAGES, audit_sentences, bias_report, worst_group
from apps.classifier.encoder import Mode
from apps.classifier.evaluation import calibration_error, natural_weights
from apps.classifier.labels import LABELS
from apps.classifier.obfuscation import KINDS, obfuscate
from apps.classifier.scorer import Scorer, warm
from apps.classifier.training import TwoLevelModel, fit
from apps.training import datasets, encoder_data, readings
from toxicmod.benchmarks.classifier import machine, read

OBFUSCATED_TEXTS, TEXTS_PER_SOURCE, SPEED_TEXTS = 1_500, 600, 2_000
COMMON_WORDS, COMMON_NAMES = 10_000, 3_000


class Command(BaseCommand):
    help = """Fit a model on nine tenths of the comments and measure it on the rest, without the encoder, with
the encoder where reading may change the result, and with the encoder for every comment."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "csv", type=Path, help="A CSV file with the columns of the Jigsaw data, also as .gz."
        )
        parser.add_argument(
            "--files", type=Path, help="A folder of comments in other languages, xx_name.jsonl.gz."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        texts, labels = read(options["csv"])
        is_test = np.fromiter(map(datasets.is_in_benchmark, texts), bool, len(texts))
        training_texts, test_texts = (
            [text for text, is_in in zip(texts, is_test, strict=True) if is_in == value]
            for value in (False, True)
        )
        fitted = fit(
            training_texts,
            labels[~is_test],
            sample_weight=natural_weights(labels[~is_test]),
            readings=readings.open_readings(),
        )
        assert isinstance(fitted, TwoLevelModel)
        manifest, arrays = fitted.artifact(name="bench").open()
        reader = encoder.load(encoder.configuration.folder)
        sources = encoder_data.read_files(options["files"]) if options["files"] else []
        self.stdout.write(
            f"{machine()}; {len(training_texts)} comments for training, {len(test_texts)} held out"
        )
        results = {}
        for mode in (Mode.NEVER, Mode.AUTO, Mode.ALWAYS):
            scorer = Scorer(manifest, arrays, reader, mode)
            results[mode] = dict(self.measure(scorer, test_texts, labels[is_test], sources))
        self.stdout.write(f"{'':46}" + "".join(f"{mode:>12}" for mode in results))
        for name in results[Mode.ALWAYS]:
            values = (results[mode][name] for mode in results)
            self.stdout.write(f"{name:46}" + "".join(f"{value:>12.4f}" for value in values))

    def measure(
        self, scorer: Scorer, texts: Sequence[str], labels: np.ndarray, sources: Sequence[encoder_data.Source]
    ) -> Iterator[tuple[str, float]]:
        """Yield the name and the value of each figure."""
        scores = scorer.rate(texts)
        weights = natural_weights(labels)
        areas = [roc_auc_score(labels[:, k], scores.probabilities[:, k]) for k in range(len(LABELS))]
        yield "ROC-AUC, mean of six labels", float(np.mean(areas))
        for label, area in zip(LABELS, areas, strict=True):
            yield f"ROC-AUC, {label}", float(area)
        errors = [
            calibration_error(labels[:, k], scores.probabilities[:, k], weights) for k in range(len(LABELS))
        ]
        yield "calibration error, worst label", max(errors)
        yield "share of comments read, natural rate", float(np.average(scores.was_read, weights=weights))
        few, y = texts[:OBFUSCATED_TEXTS], labels[:OBFUSCATED_TEXTS, 0]
        obfuscated = [
            roc_auc_score(y, scorer.score_many(obfuscate(few, kind, seed=99))[:, 0]) for kind in KINDS
        ]
        yield "ROC-AUC, toxic, obfuscated, mean of kinds", float(np.mean(obfuscated))
        yield from self.measure_meaning(scorer)
        yield from self.measure_everyday(scorer)
        for language in AUDITED_LANGUAGES:
            audit = audit_sentences(language=language)
            probabilities = scorer.score_many(audit.texts)
            for name, p in (
                ("toxic", probabilities[:, 0]),
                ("maximum with identity_hate", probabilities[:, [0, 5]].max(axis=1)),
            ):
                report = bias_report(audit, p)
                yield f"worst BPSN AUC, {name}, {language}", worst_group(report, "bpsn")[1]
                yield f"worst BNSP AUC, {name}, {language}", worst_group(report, "bnsp")[1]
        yield from self.measure_languages(scorer, sources)
        warm(scorer)
        started = time.perf_counter()
        scorer.score_many(texts[:SPEED_TEXTS], threads=1)
        yield "comments per second and core, in batches", SPEED_TEXTS / (time.perf_counter() - started)

    def measure_meaning(self, scorer: Scorer) -> Iterator[tuple[str, float]]:
        """Yield the accuracy on the sentences about meaning: the mean of harmless and toxic ones."""
        sentences = meaning.load("test")
        flags = scorer.flag([sentence.text for sentence in sentences])
        for language in meaning.LANGUAGES:
            is_in = [sentence.language == language for sentence in sentences]
            rates = meaning.accuracies(
                [sentence for sentence in sentences if sentence.language == language], flags[is_in].tolist()
            )
            yield f"meaning, mean of patterns, {language}", float(np.mean(list(rates.values())))
        rates = meaning.accuracies(sentences, flags.tolist())
        yield "meaning, median pattern", float(np.median(list(rates.values())))
        yield "meaning, worst pattern", min(rates.values())
        self.stderr.write(f"Patterns: {', '.join(f'{name} {rate:.2f}' for name, rate in rates.items())}")

    def measure_everyday(self, scorer: Scorer) -> Iterator[tuple[str, float]]:
        """Yield the share of common words, except rude ones, and of names that are flagged."""
        rude = set(everyday.DATA["rude"])
        words = encoder_data.common_words("en", COMMON_WORDS)
        groups = {
            "common words": [word for word in words if word not in rude],
            "common names": encoder_data.common_names(COMMON_NAMES, seed=1),
        }
        groups |= {
            f"{name} in sentences": [
                everyday.DATA[kind]["en"][k % len(everyday.DATA[kind]["en"])].replace(slot, word)
                for k, word in enumerate(groups[name])
            ]
            for name, kind, slot in (
                ("common words", "mentions", "{word}"),
                ("common names", "names", "{name}"),
            )
        }
        for name, texts in groups.items():
            flags = scorer.flag(texts)
            yield f"{name}, flagged", float(np.mean(flags))
            flagged = [text for text, flag in zip(texts, flags, strict=True) if flag]
            self.stderr.write(f"{name}: {len(flagged)} flagged: {', '.join(flagged[:80])}")

    def measure_languages(
        self, scorer: Scorer, sources: Sequence[encoder_data.Source]
    ) -> Iterator[tuple[str, float]]:
        """Yield the ROC-AUC of `toxic` for each source that is not in English, and the mean of languages."""
        areas: dict[str, list[float]] = defaultdict(list)
        for source in sources:
            held_out = source.examples.take(
                encoder_data.split(source.examples)["held_out"][:TEXTS_PER_SOURCE]
            )
            (language,) = set(held_out.languages)
            y = held_out.labels[:, 0]
            if language == "en" or len(np.unique(y[y >= 0])) < 2:
                continue
            area = float(roc_auc_score(y[y >= 0], scorer.score_many(held_out.texts)[y >= 0, 0]))
            areas[language].append(area)
            yield f"ROC-AUC, toxic, {source.name}", area
        if areas:
            yield (
                "ROC-AUC, toxic, mean of languages",
                float(np.mean([np.mean(values) for values in areas.values()])),
            )
