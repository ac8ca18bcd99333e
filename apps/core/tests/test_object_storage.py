"""Transfers to and from S3."""

from pathlib import Path
from typing import Any

import boto3
import pytest

from apps.core import aws as aws_clients
from apps.core import object_storage
from apps.core.object_storage import MissingError, StorageError


@pytest.fixture
def bucket(bucket_of: Any) -> Any:
    return bucket_of("files")


def test_upload_and_download_of_large_file(bucket: Any, tmp_path: Path) -> None:
    path, copy = tmp_path / "large", tmp_path / "copy"
    path.write_bytes(bytes(range(256)) * 80_000)  # 20 MB
    parts: list[int] = []

    object_storage.upload(path, "s3://files/a/large")
    object_storage.download("s3://files/a/large", copy, progress=parts.append)

    assert copy.read_bytes() == path.read_bytes()
    assert sum(parts) == object_storage.size("s3://files/a/large") == 20_480_000
    head = bucket.head_object(Bucket="files", Key="a/large", ChecksumMode="ENABLED")
    assert head["ETag"].endswith('-3"')
    assert head["ServerSideEncryption"] == "aws:kms"
    assert head["ChecksumSHA256"]


def test_download_of_damaged_file(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Bucket="files", Key="x", Body=b"abc", Metadata={"sha256": "0" * 64})
    with pytest.raises(StorageError, match="was damaged"):
        object_storage.download("s3://files/x", tmp_path / "x")


def test_upload_to_unencrypted_bucket(bucket: Any, tmp_path: Path) -> None:
    bucket.delete_bucket_encryption(Bucket="files")
    (tmp_path / "x").write_bytes(b"abc")
    with pytest.raises(StorageError, match="default encryption"):
        object_storage.upload(tmp_path / "x", "s3://files/x")


def test_errors_name_cause_and_remedy(
    bucket: Any, aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing in ("s3://files/none", "s3://nobody/none"):
        with pytest.raises(MissingError, match="no such bucket"):
            object_storage.download(missing, tmp_path / "x")
    with pytest.raises(StorageError, match="write s3://bucket/key"):
        object_storage.size("s3://files")
    monkeypatch.setattr(aws_clients, "MAX_ATTEMPTS", 1)
    aws.fault = lambda operation: "cut"
    (tmp_path / "x").write_bytes(b"abc")
    with pytest.raises(StorageError, match="Check endpoint and network"):
        object_storage.upload(tmp_path / "x", "s3://files/x")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(StorageError, match="needs AWS credentials"):
        object_storage.size("s3://files/x")
