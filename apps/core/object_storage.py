"""Files in S3: multipart transfers with checksums, into buckets that encrypt."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any

from apps.core import aws
from apps.core.exceptions import ToxicmodError

Progress = Callable[[int], Any]
_HINTS = {"404": "no such bucket or key", "NoSuchBucket": "no such bucket", "403": "access denied"}


class StorageError(ToxicmodError):
    """A file can't be read or stored; the message says what to do."""

    status = 502


class MissingError(StorageError):
    """The bucket or the key does not exist."""

    status = 404


@contextmanager
def _translate_aws_errors(url: str) -> Iterator[None]:
    """Raise a StorageError instead of an error of boto3."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError:
        raise StorageError(f"{url} needs AWS credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID.") from None
    except ClientError as error:
        code = error.response["Error"]["Code"]
        error_class = MissingError if code in ("404", "NoSuchBucket") else StorageError
        raise error_class(
            f"{url} can't be used: {_HINTS.get(code, code)}. Check bucket, key and credentials."
        ) from None
    except (BotoCoreError, Boto3Error) as error:
        raise StorageError(f"{url} can't be used: {error} Check endpoint and network.") from None


def parse_url(url: str) -> tuple[str, str]:
    """Return bucket and key of `s3://bucket/key`.

    Raises:
        StorageError: one of them is missing.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket or not key:
        raise StorageError(f"{url} is incomplete: write s3://bucket/key.")
    return bucket, key


def size(url: str) -> int:
    """Return a file's size in bytes.

    Raises:
        MissingError: the file does not exist.
        StorageError: S3 can't be reached or reports an error.
    """
    bucket, key = parse_url(url)
    with _translate_aws_errors(url):
        return aws.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"]


def upload(path: Path, url: str) -> None:
    """Store a file, in parts from 8 MB on; S3 verifies the SHA-256 of every part.

    The bucket's default encryption applies, so that the bucket's key is used.

    Raises:
        StorageError: S3 can't be reached or reports an error, or the bucket does not encrypt.
    """
    bucket, key = parse_url(url)
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    with _translate_aws_errors(url):
        client = aws.client("s3")
        options = {"ChecksumAlgorithm": "SHA256", "Metadata": {"sha256": digest}}
        with path.open("rb") as file:
            client.upload_fileobj(file, bucket, key, ExtraArgs=options)
        stored = client.head_object(Bucket=bucket, Key=key)
    if "ServerSideEncryption" not in stored:
        raise StorageError(f"{url} is stored unencrypted: set the bucket's default encryption and remove it.")


def download(url: str, path: Path, *, progress: Progress | None = None) -> None:
    """Write a stored file to a path, in parallel parts, and verify its SHA-256.

    Args:
        progress: is called with the number of bytes of each part.

    Raises:
        MissingError: the file does not exist.
        StorageError: S3 can't be reached or reports an error, or the file is damaged.
    """
    bucket, key = parse_url(url)
    with _translate_aws_errors(url):
        client = aws.client("s3")
        expected = client.head_object(Bucket=bucket, Key=key)["Metadata"].get("sha256")
        client.download_file(bucket, key, str(path), Callback=progress)
    with path.open("rb") as file:
        if expected and file_digest(file, "sha256").hexdigest() != expected:
            raise StorageError(f"{url} was damaged in transfer: try again.")
