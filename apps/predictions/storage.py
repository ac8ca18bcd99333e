"""Files in S3: in parts where they are large, checked on both ways, encrypted where they lie."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any

from apps.predictions import aws

Progress = Callable[[int], Any]
_HINTS = {"404": "no such bucket or key", "NoSuchBucket": "no such bucket", "403": "access denied"}


class StorageError(Exception):
    """A file can't be had or kept; the message is one sentence that says what to do."""


class MissingError(StorageError):
    """There is no such bucket or key."""


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Turn what boto3 raises into a StorageError."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError:
        raise StorageError(
            f"{address} needs AWS credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID."
        ) from None
    except ClientError as error:
        code = error.response["Error"]["Code"]
        kind = MissingError if code in ("404", "NoSuchBucket") else StorageError
        raise kind(
            f"{address} can't be used: {_HINTS.get(code, code)}. Check bucket, key and credentials."
        ) from None
    except (BotoCoreError, Boto3Error) as error:
        raise StorageError(f"{address} can't be used: {error} Check endpoint and network.") from None


def split(address: str) -> tuple[str, str]:
    """Return bucket and key of `s3://bucket/key`.

    Raises:
        StorageError: one is missing.
    """
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if not address.startswith("s3://") or not bucket or not key:
        raise StorageError(f"{address} is incomplete: write s3://bucket/key.")
    return bucket, key


def size(address: str) -> int:
    """Return a file's size in bytes.

    Raises:
        MissingError: there is none.
        StorageError: S3 can't be reached or refuses.
    """
    bucket, key = split(address)
    with _told(address):
        return aws.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"]


def upload(path: Path, address: str) -> None:
    """Store a file, in parts from 8 MB on; S3 checks every part's SHA-256.

    How it is encrypted is left to the bucket, so that its own key is used; that it is, is checked.

    Raises:
        StorageError: S3 can't be reached or refuses, or the bucket does not encrypt.
    """
    bucket, key = split(address)
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    with _told(address):
        client = aws.client("s3")
        extra = {"ChecksumAlgorithm": "SHA256", "Metadata": {"sha256": digest}}
        with path.open("rb") as file:
            client.upload_fileobj(file, bucket, key, ExtraArgs=extra)
        stored = client.head_object(Bucket=bucket, Key=key)
    if "ServerSideEncryption" not in stored:
        raise StorageError(f"{address} lies there in clear: set the bucket's default encryption, remove it.")


def download(address: str, path: Path, *, progress: Progress | None = None) -> None:
    """Write a stored file to a path, in parallel parts, and check it.

    Raises:
        MissingError: there is none.
        StorageError: S3 can't be reached or refuses, or what came is not what was uploaded.
    """
    bucket, key = split(address)
    with _told(address):
        client = aws.client("s3")
        expected = client.head_object(Bucket=bucket, Key=key)["Metadata"].get("sha256")
        client.download_file(bucket, key, str(path), Callback=progress)
    with path.open("rb") as file:
        if expected and file_digest(file, "sha256").hexdigest() != expected:
            raise StorageError(f"{address} came damaged: try again.")
