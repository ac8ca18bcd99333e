"""The model in service: swapped when the champion changes, kept when anything fails."""

import logging
import threading
import time
from dataclasses import dataclass

from django.db import DatabaseError

from apps.classifier.artifact import ArtifactError
from apps.classifier.scorer import Scorer
from apps.registry.models import Alias, ModelArtifact, ModelVersion

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


class NoModelError(Exception):
    """No champion has been installed, or it could not be loaded."""


@dataclass(frozen=True)
class Served:
    """A loaded model with the identity of its version; requests keep the one that they began with."""

    version_id: int
    number: int
    scorer: Scorer


class ServingModel:
    """Holds the champion. Looks for a new one at most once a second, on the way of a request."""

    def __init__(self) -> None:
        self._served: Served | None = None
        self._checked = float("-inf")
        self._refused: int | None = None
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
            row = (
                ModelVersion.objects.filter(alias=Alias.CHAMPION)
                .values_list("pk", "number", "sha256")
                .first()
            )
            if row and (self._served is None or self._served.version_id != row[0]):
                version_id, number, sha256 = row
                artifact = ModelArtifact.objects.get(pk=version_id).artifact()
                try:
                    self._served = Served(version_id, number, Scorer.load(artifact, expected_sha256=sha256))
                    logger.info("Model v%d is in service", number)
                except ArtifactError as error:
                    if self._refused != version_id:
                        logger.error(
                            "Model v%d was refused, the one before stays in service: %s", number, error
                        )
                    self._refused = version_id
        except DatabaseError as error:
            logger.warning("Could not look for a new champion: %s", error.__class__.__name__)
        self._checked = time.monotonic()


_serving = ServingModel()
current = _serving.current
