"""`manage.py train_encoder`: train a multilingual encoder."""

from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from apps.classifier.encoder_training.config import EncoderConfig, Progress
from apps.core.management import ProjectCommand
from apps.registry import tracking
from apps.registry.exceptions import TrackingError
from apps.training import encoder_data
from apps.training.management.base import find_dataset

REQUIREMENTS = "apps/classifier/encoder_training/requirements.txt"


class Command(ProjectCommand):
    help = f"""Train the encoder from a multilingual base model, and export it.

It needs PyTorch: pip install -r {REQUIREMENTS}. With a GPU it takes minutes, with a CPU
hours. An interrupted run continues from its last checkpoint, at most two minutes earlier, when the command is
called again with the same arguments.

The output folder gets the encoder after each phase. Texts that data sets hold out are not
trained on. Settings, losses and figures for each source and language are recorded in MLflow."""
    examples = """  manage.py train_encoder --base intfloat/multilingual-e5-small --dataset jigsaw
  manage.py train_encoder --base e5 --dataset jigsaw --files comments --layers 0 3 6 9
  manage.py train_encoder --base apps/classifier/data/encoder --dataset ours --work-dir further"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--base",
            required=True,
            help="A folder, or a name on the Hugging Face hub; or the folder of an exported encoder, to "
            "train it further.",
        )
        parser.add_argument(
            "--dataset",
            action="append",
            default=[],
            help="An imported data set in English: name or name:version.",
        )
        parser.add_argument(
            "--files",
            action="append",
            default=[],
            type=Path,
            help="A file xx_name.jsonl[.gz] in the language xx, or a folder of such files. A line has "
            "`text`, and 0 or 1 for each label that is known.",
        )
        parser.add_argument(
            "--work-dir", type=Path, default=settings.DATA_DIR / "encoder", help="The folder of checkpoints."
        )
        parser.add_argument(
            "--output", type=Path, help="The folder of the encoder (default: WORK_DIR/export)."
        )
        for field in fields(EncoderConfig):
            is_tuple = isinstance(field.default, tuple)
            parser.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=int if is_tuple else type(field.default),
                nargs="+" if is_tuple else None,
                help=f"See EncoderConfig (default: {field.default}).",
            )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            from apps.training import encoder_runs
        except ModuleNotFoundError as error:
            raise CommandError(f"{error.name} is not installed: pip install -r {REQUIREMENTS}") from None
        changes: dict[str, Any] = {
            field.name: tuple(value) if isinstance(value, list) else value
            for field in fields(EncoderConfig)
            if (value := options[field.name]) is not None
        }
        config = replace(EncoderConfig(), **changes)
        sources = [encoder_data.read_dataset(find_dataset(name)) for name in options["dataset"]]
        sources += [source for path in options["files"] for source in encoder_data.read_files(path)]
        started = datetime.now(UTC)
        work, output = options["work_dir"], options["output"] or options["work_dir"] / "export"
        result = encoder_runs.train(
            base=options["base"], sources=sources, config=config, work=work, output=output, report=self.report
        )
        for name, areas in result.metrics.items():
            self.stdout.write(
                f"{name:20} " + ", ".join(f"{label} {area:.4f}" for label, area in areas.items())
            )
        size = sum(path.stat().st_size for path in output.iterdir())
        self.stdout.write(f"Wrote {output} ({size / 1e6:.1f} MB).")
        try:
            tracking.log_run(
                name="encoder",
                params=result.params,
                metrics={
                    f"roc_auc/{label}/{name}": area
                    for name, areas in result.metrics.items()
                    for label, area in areas.items()
                },
                curves=result.losses,
                report=output,
                started=started,
            )
        except TrackingError as error:
            self.warn(f"{error}. The encoder is stored, but not recorded in MLflow.")

    def report(self, step: str, progress: Progress | None) -> None:
        """Print a step of the run, or how far a phase is."""
        if progress is None:
            self.stdout.write(f"{step} …")
            return
        self.stdout.write(
            f"{step}: batch {progress.step} of {progress.steps}, loss {progress.loss:.4f}, "
            f"{progress.milliseconds_per_row:.0f} ms per row, {progress.seconds_left / 60:.0f} min left"
        )
