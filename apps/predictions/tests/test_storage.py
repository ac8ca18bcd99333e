"""Files in S3: large ones in parts, all checked and encrypted."""

from pathlib import Path
from typing import Any

import boto3
import pytest

from apps.predictions import aws as door
from apps.predictions import storage
from apps.predictions.storage import MissingError, StorageError


@pytest.fixture
def bucket(bucket_of: Any) -> Any:
    return bucket_of("files")


def test_a_large_file_goes_in_parts_checked_and_encrypted(bucket: Any, tmp_path: Path) -> None:
    path, back = tmp_path / "large", tmp_path / "back"
    path.write_bytes(bytes(range(256)) * 80_000)  # 20 MB
    seen: list[int] = []

    storage.upload(path, "s3://files/a/large")
    storage.download("s3://files/a/large", back, progress=seen.append)

    assert back.read_bytes() == path.read_bytes()
    assert sum(seen) == storage.size("s3://files/a/large") == 20_480_000
    head = bucket.head_object(Bucket="files", Key="a/large", ChecksumMode="ENABLED")
    assert head["ETag"].endswith('-3"')
    assert head["ServerSideEncryption"] == "aws:kms"
    assert head["ChecksumSHA256"]


def test_what_came_damaged_is_refused(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Bucket="files", Key="x", Body=b"abc", Metadata={"sha256": "0" * 64})
    with pytest.raises(StorageError, match="came damaged"):
        storage.download("s3://files/x", tmp_path / "x")


def test_a_bucket_that_does_not_encrypt_is_refused(bucket: Any, tmp_path: Path) -> None:
    bucket.delete_bucket_encryption(Bucket="files")
    (tmp_path / "x").write_bytes(b"abc")
    with pytest.raises(StorageError, match="default encryption"):
        storage.upload(tmp_path / "x", "s3://files/x")


def test_what_is_not_there_and_nobody_there(
    bucket: Any, aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing in ("s3://files/none", "s3://nobody/none"):
        with pytest.raises(MissingError, match="no such bucket"):
            storage.download(missing, tmp_path / "x")
    with pytest.raises(StorageError, match="write s3://bucket/key"):
        storage.size("s3://files")
    monkeypatch.setattr(door, "ATTEMPTS", 1)
    aws.fault = lambda operation: "cut"
    (tmp_path / "x").write_bytes(b"abc")
    with pytest.raises(StorageError, match="Check endpoint and network"):
        storage.upload(tmp_path / "x", "s3://files/x")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(StorageError, match="needs AWS credentials"):
        storage.size("s3://files/x")
