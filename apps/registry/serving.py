"""The models in service: swapped when the champion or its canary changes, kept when anything fails."""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError

from apps.classifier.artifact import ArtifactError
from apps.classifier.scorer import Scorer
from apps.registry.exceptions import NoModelError
from apps.registry.models import Alias, CanaryFailure, ModelArtifact, ModelVersion

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


@dataclass(frozen=True)
class Served:
    """A loaded model with the identity of its version; requests keep the one that they began with."""

    version_id: int
    number: int
    scorer: Scorer


@dataclass(frozen=True)
class Trial:
    """A canary in service, and the share of requests that it serves."""

    served: Served
    share: float


class ServingModel:
    """Holds the champion and its canary. Looks for others at most once a second, on the way of a request."""

    def __init__(self) -> None:
        self.trial: Trial | None = None
        self._served: Served | None = None
        self._checked = float("-inf")
        self._refused: set[int] = set()
        self._lock = threading.Lock()

    def current(self) -> Served:
        """Return the champion, loading or swapping it first where needed.

        A champion that can't be loaded, or a database that is down, leaves the model in hand in service.

        Raises:
            NoModelError: there is none in hand and none could be loaded.
        """
        served = self._served
        if served is not None and time.monotonic() - self._checked < CHECK_SECONDS:
            return served
        # One thread looks; the others go on with what is in hand, and wait only when there is nothing.
        if self._lock.acquire(blocking=served is None):
            try:
                if self._served is None or time.monotonic() - self._checked >= CHECK_SECONDS:
                    self._refresh()
            finally:
                self._lock.release()
        if self._served is None:
            raise NoModelError(
                "No model is in service: run `manage.py install_base_model` or promote a version."
            )
        return self._served

    def _refresh(self) -> None:
        try:
            rows: dict[str | None, list[Any]] = {
                alias: row
                for alias, *row in ModelVersion.objects.filter(
                    alias__in=(Alias.CHAMPION, Alias.CANARY)
                ).values_list("alias", "share", "pk", "number", "sha256")
            }
            if champion := rows.get(Alias.CHAMPION):
                self._served = self._loaded(self._served, *champion[1:]) or self._served
            self.trial = self._tried(*rows[Alias.CANARY]) if Alias.CANARY in rows else None
        except DatabaseError as error:
            logger.warning("Could not look for a new champion: %s", error.__class__.__name__)
        self._checked = time.monotonic()

    def _tried(self, share: float, version_id: int, number: int, sha256: str) -> Trial | None:
        known = version_id in self._refused
        in_hand = self.trial.served if self.trial else None
        served = self._loaded(in_hand, version_id, number, sha256)
        if served:
            return Trial(served, share)
        if not known:
            CanaryFailure.objects.create(version_id=version_id, error=ArtifactError.__name__)
        return None

    def _loaded(self, in_hand: Served | None, version_id: int, number: int, sha256: str) -> Served | None:
        """Return the version, loaded if it isn't in hand; None where its artifact is refused."""
        if in_hand and in_hand.version_id == version_id:
            return in_hand
        artifact = ModelArtifact.objects.get(pk=version_id).artifact()
        try:
            served = Served(version_id, number, Scorer.load(artifact, expected_sha256=sha256))
        except ArtifactError as error:
            if version_id not in self._refused:
                logger.error("Model v%d was refused, the one before stays in service: %s", number, error)
            self._refused.add(version_id)
            return None
        logger.info("Model v%d is in service", number)
        return served


_serving = ServingModel()
current = _serving.current


def choose(key: str) -> Served:
    """Return the model for a request: the champion, or while a canary runs the canary for its share of keys.

    Args:
        key: hexadecimal, evenly distributed; the same one gets the same model.

    Raises:
        NoModelError: as in `current`.
    """
    champion, trial = current(), _serving.trial
    return trial.served if trial and int(key[:8], 16) < trial.share * 2**32 else champion


def stand_in(served: Served, error: Exception) -> Served:
    """Return the champion in place of a canary that raised an error, which is kept; it may end the canary.

    Raises:
        Exception: the error itself, where it was the champion that raised it.
    """
    champion = current()
    if served.version_id == champion.version_id:
        raise error
    logger.error("The canary v%d failed: %s", served.number, error.__class__.__name__)
    CanaryFailure.objects.create(version_id=served.version_id, error=error.__class__.__name__[:100])
    return champion
