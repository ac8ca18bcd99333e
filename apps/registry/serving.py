"""The models in service. Each process swaps them after a promotion, and keeps them while anything fails."""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError

from apps.classifier.artifact import ArtifactError
from apps.classifier.scorer import Scorer
from apps.core.database import describe_error
from apps.registry.exceptions import NoModelError
from apps.registry.models import Alias, CanaryFailure, ModelArtifact, ModelVersion

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model and its version. A request uses the same one until its end."""

    version_id: int
    number: int
    scorer: Scorer


@dataclass(frozen=True)
class CanaryRoute:
    """The canary in service, and the share of requests that it serves."""

    model: LoadedModel
    share: float


class ModelServer:
    """Holds the champion and the canary; at most once a second, a request reloads them if they changed."""

    def __init__(self) -> None:
        self.canary: CanaryRoute | None = None
        self._champion: LoadedModel | None = None
        self._checked_at = float("-inf")
        self._rejected: set[int] = set()  # versions whose artifact is damaged
        self._lock = threading.Lock()

    def current(self) -> LoadedModel:
        """Return the champion, after loading it if it changed.

        If it can't be loaded or the database is down, the loaded model remains in service.

        Raises:
            NoModelError: no model is loaded, and none can be.
        """
        model = self._champion
        if model is not None and time.monotonic() - self._checked_at < CHECK_SECONDS:
            return model
        # One thread checks. The others use the loaded model, and wait only if there is none.
        if self._lock.acquire(blocking=model is None):
            try:
                if self._champion is None or time.monotonic() - self._checked_at >= CHECK_SECONDS:
                    self._refresh()
            finally:
                self._lock.release()
        if self._champion is None:
            raise NoModelError(
                "No model is in service: run `manage.py install_base_model` or promote a version."
            )
        return self._champion

    def _refresh(self) -> None:
        try:
            rows: dict[str | None, list[Any]] = {
                alias: row
                for alias, *row in ModelVersion.objects.filter(
                    alias__in=(Alias.CHAMPION, Alias.CANARY)
                ).values_list("alias", "share", "pk", "number", "sha256")
            }
            if champion := rows.get(Alias.CHAMPION):
                self._champion = self._load(self._champion, *champion[1:]) or self._champion
            self.canary = self._load_canary(*rows[Alias.CANARY]) if Alias.CANARY in rows else None
        except DatabaseError as error:
            logger.warning("Could not check for a new champion: %s", describe_error(error))
        self._checked_at = time.monotonic()

    def _load_canary(self, share: float, version_id: int, number: int, sha256: str) -> CanaryRoute | None:
        is_reported = version_id in self._rejected
        loaded = self.canary.model if self.canary else None
        model = self._load(loaded, version_id, number, sha256)
        if model:
            return CanaryRoute(model, share)
        if not is_reported:
            CanaryFailure.objects.create(version_id=version_id, error=ArtifactError.__name__)
        return None

    def _load(
        self, loaded: LoadedModel | None, version_id: int, number: int, sha256: str
    ) -> LoadedModel | None:
        """Return a version, loaded unless it is `loaded`; None if its artifact is damaged."""
        if loaded and loaded.version_id == version_id:
            return loaded
        artifact = ModelArtifact.objects.get(pk=version_id).artifact()
        try:
            model = LoadedModel(version_id, number, Scorer.load(artifact, expected_sha256=sha256))
        except ArtifactError as error:
            if version_id not in self._rejected:
                logger.error("Model v%d was rejected, the loaded one stays in service: %s", number, error)
            self._rejected.add(version_id)
            return None
        logger.info("Model v%d is in service", number)
        return model


_server = ModelServer()
current = _server.current


def route(key: str) -> LoadedModel:
    """Return the model for a request: the canary for its share of the keys, else the champion.

    Args:
        key: hexadecimal and uniformly distributed; requests with the same key get the same model.

    Raises:
        NoModelError: no model is in service.
    """
    champion, canary = current(), _server.canary
    return canary.model if canary and int(key[:8], 16) < canary.share * 2**32 else champion


def fall_back_to_champion(model: LoadedModel, error: Exception) -> LoadedModel:
    """Return the champion instead of a canary that raised an error; record the error.

    Raises:
        Exception: the error, if the champion raised it.
    """
    champion = current()
    if model.version_id == champion.version_id:
        raise error
    logger.error("The canary v%d failed: %s", model.number, error.__class__.__name__)
    CanaryFailure.objects.create(version_id=model.version_id, error=error.__class__.__name__[:100])
    return champion
