"""Fetches the source of a data set to a local file: a path, a URL, S3 or the public Jigsaw data."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from apps.core import object_storage
from apps.core.retries import back_off
from apps.training.exceptions import SourceError

# The file behind TensorFlow Datasets' `wikipedia_toxicity_subtypes`.
JIGSAW_URL = (
    "https://storage.googleapis.com/jigsaw-unintended-bias-in-toxicity-classification/"
    "wikipedia_toxicity_subtypes_v0.3.zip"
)
KAGGLE_URL = (
    "https://www.kaggle.com/api/v1/competitions/data/download/"
    "jigsaw-toxic-comment-classification-challenge/train.csv.zip"
)
ATTEMPTS = 3
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=1), timedelta(minutes=1)
CHUNK = 1 << 20


def public_name(source: str) -> str:
    """Return a source without secrets: a URL without its password and its query."""
    if source.startswith(("http://", "https://")):
        parts = urlsplit(source)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return source


@contextmanager
def fetch(source: str) -> Iterator[Path]:
    """Yield the path of the source, downloaded to a temporary file if it is remote.

    Args:
        source: a path, an http(s) URL, `s3://bucket/key`, or `jigsaw`: Kaggle's file when KAGGLE_USERNAME and
            KAGGLE_KEY are in the environment, else the public one.

    Raises:
        SourceError: it does not exist, access is denied, or three attempts to download it failed.
    """
    if "://" not in source and source != "jigsaw":
        path = Path(source).expanduser()
        if not path.is_file():
            raise SourceError(f"There is no file {source}: check the path.")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="toxicmod-") as folder:
        path = Path(folder) / "download"
        if source.startswith("s3://"):
            _download_s3(source, path)
        elif source == "jigsaw" or source.startswith(("http://", "https://")):
            with path.open("wb") as file:
                if source == "jigsaw":
                    _download_jigsaw(file)
                else:
                    _download(source, file)
        else:
            raise SourceError(
                f"{source} is not a known kind of source: give a path, http(s)://, s3:// or jigsaw."
            )
        yield path


def _download_jigsaw(file: IO[bytes]) -> None:
    user, key = os.environ.get("KAGGLE_USERNAME"), os.environ.get("KAGGLE_KEY")
    if user and key:
        _download(KAGGLE_URL, file, auth=(user, key))
    else:
        _download(JIGSAW_URL, file)


def _download(url: str, file: IO[bytes], auth: tuple[str, str] | None = None) -> None:
    name = public_name(url)
    for attempt in range(ATTEMPTS):
        file.seek(0)
        file.truncate()
        try:
            with requests.get(url, stream=True, timeout=(10, 60), auth=auth) as response:
                if response.ok:
                    size = int(response.headers.get("Content-Length", 0)) or None
                    with _bar("Downloading", size) as bar:
                        for chunk in response.iter_content(CHUNK):
                            bar.update(file.write(chunk))
                    return
                problem = f"{name} answered {response.status_code} {response.reason}"
                if response.status_code in (401, 403):
                    raise SourceError(f"{problem}: check your access and the credentials.")
                if response.status_code < 500 and response.status_code != 429:
                    raise SourceError(f"{problem}: check the address.")
        except requests.exceptions.InvalidURL:
            raise SourceError(f"{name} is not a valid address: check it.") from None
        except requests.RequestException as error:
            problem = f"{name} could not be downloaded ({error.__class__.__name__})"
        if attempt + 1 < ATTEMPTS:
            time.sleep(back_off(attempt + 1, first=FIRST_WAIT, longest=LONGEST_WAIT).total_seconds())
    raise SourceError(f"{problem}, {ATTEMPTS} times: check the address and the network, then try again.")


def _download_s3(source: str, path: Path) -> None:
    try:
        with _bar("Downloading", object_storage.size(source)) as bar:
            object_storage.download(source, path, progress=bar.update)
    except object_storage.StorageError as error:
        raise SourceError(str(error)) from None


def _bar(title: str, size: int | None) -> tqdm:
    return tqdm(total=size, desc=title, unit="B", unit_scale=True, disable=None)
