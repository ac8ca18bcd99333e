"""The models in service. Each process swaps them after a promotion, and keeps them while anything fails."""

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from django.db import DatabaseError

from apps.classifier.artifact import ArtifactError
from apps.classifier.scorer import Scorer
from apps.core.database import describe_error
from apps.registry.exceptions import NoModelError
from apps.registry.models import Alias, Canary, CanaryFailure, ModelArtifact, ModelVersion, Promotion

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
SWAP_TIME = timedelta(seconds=10)  # until a process has noticed and loaded a new champion
MAX_PINNED = 3  # versions that are kept loaded because requests name them
MAX_MISSING = 1_000
PINNED_SECONDS = 60.0  # for which the answer that a version can't be loaded is kept


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
        self._pinned: OrderedDict[int, LoadedModel] = OrderedDict()  # by number, the last used at the end
        self._missing: dict[int, float] = {}  # numbers that can't be loaded, and until when that holds
        self._pinned_lock = threading.Lock()
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

    def pinned(self, number: int) -> LoadedModel:
        """Return the version with a number, loaded if necessary; the champion if it can't be loaded.

        Besides the champion and the canary, MAX_PINNED versions stay loaded, those that were used last.

        Raises:
            NoModelError: no model is in service.
        """
        champion, canary = self.current(), self.canary
        if number == champion.number:
            return champion
        if canary and number == canary.model.number:
            return canary.model
        with self._pinned_lock:
            if model := self._pinned.get(number):
                self._pinned.move_to_end(number)
                return model
            now = time.monotonic()
            if self._missing.get(number, 0.0) > now:
                return champion
            model = self._load_pinned(number)
            if model is None:
                self._missing = {number: until for number, until in self._missing.items() if until > now}
                if len(self._missing) < MAX_MISSING:
                    self._missing[number] = now + PINNED_SECONDS
                return champion
            self._pinned[number] = model
            if len(self._pinned) > MAX_PINNED:
                self._pinned.popitem(last=False)
            return model

    def _load_pinned(self, number: int) -> LoadedModel | None:
        try:
            row = ModelVersion.objects.filter(number=number).values_list("pk", "number", "sha256").first()
            return self._load(None, *row) if row else None
        except (DatabaseError, ModelArtifact.DoesNotExist) as error:
            logger.warning("Model v%d can't be loaded: %s", number, error.__class__.__name__)
            return None

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
pinned = _server.pinned


@lru_cache(maxsize=256)
def number_of(version_id: int) -> int:
    """Return the number of a model version."""
    return ModelVersion.objects.values_list("number", flat=True).get(pk=version_id)


def route(key: str) -> LoadedModel:
    """Return the model for a request: the canary for its share of the keys, else the champion.

    Args:
        key: hexadecimal and uniformly distributed; requests with the same key get the same model.

    Raises:
        NoModelError: no model is in service.
    """
    champion, canary = current(), _server.canary
    return canary.model if canary and int(key[:8], 16) < canary.share * 2**32 else champion


def was_routed(key: str, version_id: int, at: datetime) -> bool:
    """Return whether a version may have served the requests with a key at a time.

    A process may use the replaced champion or an ended canary for another SWAP_TIME.

    Args:
        key: see `route`.
    """
    champions = Promotion.objects.filter(created_at__lte=at)
    canaries = Canary.objects.filter(
        version=version_id, created_at__lte=at, share__gt=int(key[:8], 16) / 2**32
    )
    return (
        champions.values_list("version", flat=True).first() == version_id
        or champions.filter(replaced=version_id, created_at__gt=at - SWAP_TIME).exists()
        or canaries.exclude(end__created_at__lte=at - SWAP_TIME).exists()
    )


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
