"""Import data sets, and build them from decisions and feedback."""

import re
from collections import Counter
from datetime import datetime

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Max

from apps.core.text import pluralize
from apps.training import datasets, jigsaw, labels, sources
from apps.training.exceptions import SourceError, TrainingError
from apps.training.models import Dataset

JIGSAW_LICENCE = "labels CC0; comment text from Wikipedia, CC BY-SA 3.0"
SITE_LICENCE = "comments written and moderated on this site"


def import_dataset(
    *, source: str, name: str, natural_rate: float | None = None, licence: str = "", strict: bool = False
) -> tuple[Dataset, bool]:
    """Read labelled comments and store the valid rows as a new version of the named data set.

    Args:
        source: see `sources.fetch`.
        natural_rate: the rate of labelled rows in the traffic that an enriched source was sampled from.
        strict: reject the file if any row is invalid, instead of leaving such rows out.

    Returns:
        The data set, and whether it is new: the same rows under the same name are stored once.

    Raises:
        SourceError: the source can't be fetched or read, has no valid row, or an invalid one if `strict`.
        TrainingError: the name or the rate is invalid.
    """
    _check_name(name)
    if natural_rate is not None and not 0 < natural_rate < 1:
        raise TrainingError("The natural rate must be between 0 and 1.")
    report = jigsaw.ImportReport()
    with sources.fetch(source) as path:
        rows = jigsaw.read_comments(path, report, max_bytes=settings.MAX_COMMENT_BYTES)
        file = datasets.write(rows, settings.DATA_DIR / "datasets")
    try:
        details = "; ".join(jigsaw.format_report(report.problems))
        if report and strict:
            raise SourceError(
                f"{pluralize(len(report), 'row is', 'rows are')} invalid, nothing was imported. {details}"
            )
        if not file.rows:
            raise SourceError(f"{sources.public_name(source)} has no valid row. {details}".strip())
        datasets.upload(file)
        return _record(file, report, sources.public_name(source), name, natural_rate, licence)
    finally:
        file.path.unlink(missing_ok=True)


def build_dataset(
    *, name: str, base: Dataset | None = None, since: datetime | None = None
) -> tuple[Dataset, bool]:
    """Store the labels from decisions and feedback as a new version of the named data set.

    `labels.LABEL_POLICY` says which event labels a text. With a base, its rows are included and its held-out
    rows stay held out; without one, a tenth is held out as from any data set. Rows without labels are
    weighted so that the rate of labelled rows stays that of the base, however enriched the added rows are.

    Args:
        base: an imported data set.
        since: use only decisions and feedback from then on.

    Returns:
        The data set, and whether it is new: the same rows under the same name are stored once.

    Raises:
        SourceError: the base's file is missing or damaged.
        TrainingError: there are no labels, or the name or the base is invalid.
    """
    _check_name(name)
    if base and base.is_built:
        raise TrainingError(f"{base} was built from decisions: choose an imported data set as base.")
    report, counts = jigsaw.ImportReport(), Counter[str]()
    rows = labels.read_comments(base=base, since=since, report=report, counts=counts)
    file = datasets.write(rows, settings.DATA_DIR / "datasets")
    try:
        if not file.rows:
            details = "; ".join(jigsaw.format_report(report.problems)) or "no stored comment has a label"
            raise TrainingError(
                f"There are no labels to learn from ({details}): decide items in the console, send feedback, "
                "or choose an earlier start date."
            )
        source = ", ".join(f"{origin}: {count}" for origin, count in sorted(counts.items()))
        if since:
            source += f"; since {since.isoformat()}"
        rate = base and (base.natural_rate or base.labelled / base.rows)
        rate = rate if rate and rate < 1 else None
        licence = f"{base.licence}; added: " if base and base.licence else ""
        datasets.upload(file)
        return _record(file, report, source, name, rate, f"{licence}{SITE_LICENCE}", is_built=True)
    finally:
        file.path.unlink(missing_ok=True)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w.-]{1,100}", name):
        raise TrainingError("A data set's name is made of letters, digits, dots, hyphens and underscores.")


@transaction.atomic
def _record(
    file: datasets.DatasetFile,
    report: jigsaw.ImportReport,
    source: str,
    name: str,
    natural_rate: float | None,
    licence: str,
    is_built: bool = False,
) -> tuple[Dataset, bool]:
    existing = Dataset.objects.filter(name=name, sha256=file.sha256).first()
    if existing:
        if existing.natural_rate != natural_rate:
            raise TrainingError(
                f"{existing} has the same rows with natural rate {existing.natural_rate}: use another name."
            )
        file.path.replace(existing.path)
        return existing, False
    last = Dataset.objects.filter(name=name).aggregate(last=Max("version"))["last"] or 0
    try:
        with transaction.atomic():
            dataset = Dataset.objects.create(
                name=name,
                version=last + 1,
                sha256=file.sha256,
                source=source[:500],
                rows=file.rows,
                labelled=file.labelled,
                positives=file.positives,
                natural_rate=natural_rate,
                licence=licence[:200] or (JIGSAW_LICENCE if source == "jigsaw" else ""),
                report=report.problems,
                is_built=is_built,
            )
    except IntegrityError:
        raise TrainingError(f"Another import into {name} finished at the same time: try again.") from None
    file.path.replace(dataset.path)
    return dataset, True
