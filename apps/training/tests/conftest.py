"""Folders of their own, made-up comments, real ones where they are, moderators, and an MLflow store."""

import csv
import gzip
import io
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as project

from apps.classifier.labels import LABELS
from apps.moderation.tests.conftest import ann, ben, model, person, policy  # noqa: F401
from apps.registry.tests.conftest import mlflow_folder, mlflow_outage, mlflow_store  # noqa: F401
from apps.training import actions
from apps.training.jigsaw import COLUMNS
from apps.training.models import Dataset

PLAIN_WORDS = ("the", "page", "was", "changed", "last", "week", "and", "reads", "well", "to", "me", "thanks")
RUDE_WORDS = dict(zip(LABELS, ("stupid", "vile", "damn", "kill", "idiot", "foreigners"), strict=True))


@pytest.fixture(autouse=True)
def folders(settings: Any, tmp_path: Path) -> None:
    """Keep what a test stores away from the project's own data."""
    settings.DATA_DIR = tmp_path / "data"


def made_up(count: int, seed: int = 0, share: float = 0.15) -> list[list[str]]:
    """Rows in which a word tells each label, in the order of `COLUMNS`."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        labels = [label for label in LABELS if chance.random() < share]
        words = chance.choices(PLAIN_WORDS, k=8) + [RUDE_WORDS[label] for label in labels]
        chance.shuffle(words)
        flags = [str(int(label in labels)) for label in LABELS]
        rows.append([f"{seed}-{number}", f"{' '.join(words)} {number}", *flags])
    return rows


def as_csv(rows: Iterable[Iterable[str]], header: Iterable[str] = COLUMNS) -> bytes:
    """Rows as the bytes of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


@pytest.fixture
def dataset(db: None, tmp_path: Path) -> Dataset:
    """400 made-up comments, imported."""
    path = tmp_path / "made-up.csv"
    path.write_bytes(as_csv(made_up(400)))
    return actions.import_dataset(source=str(path), name="made-up")[0]


@pytest.fixture
def real_csv(tmp_path: Path) -> Path:
    """3,000 rows of the Jigsaw data."""
    source = Path(os.environ.get("JIGSAW_CSV", project.BASE_DIR / "../shared/data/jigsaw/train.csv.gz"))
    if not source.is_file():
        pytest.skip(
            f"NOT TESTED ON REAL COMMENTS: there is no {source}; set JIGSAW_CSV to Jigsaw's train.csv.gz"
        )
    path = tmp_path / "real.csv"
    with gzip.open(source, "rt", newline="") as text, path.open("w", newline="") as out:
        rows = csv.reader(text)
        csv.writer(out).writerows(row for row, _ in zip(rows, range(3001), strict=False))
    return path
