"""An MLflow store for the tests that need one."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def mlflow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests: MLflow takes seconds to make its tables."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def mlflow_store(settings: Any, mlflow_folder: Path) -> str:
    """Let MLflow write to a SQLite store; returns its URI."""
    settings.MLFLOW_TRACKING_URI = f"sqlite:///{mlflow_folder / 'mlflow.sqlite3'}"
    settings.MLFLOW_ARTIFACTS = str(mlflow_folder / "artifacts")
    return settings.MLFLOW_TRACKING_URI


@pytest.fixture
def mlflow_outage(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody answer where MLflow should be."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings.MLFLOW_TRACKING_URI = "http://127.0.0.1:9"
