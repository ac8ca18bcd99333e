"""Loads and compiles everything that a request needs, before processes that share the memory are forked."""

import logging
from threading import Thread

from django.db import connections
from django.urls import reverse

from apps.classifier import languages
from apps.classifier.scorer import warm
from apps.registry import serving
from apps.registry.exceptions import NoModelError
from toxicmod.compiler_memory import release_compiler

logger = logging.getLogger(__name__)


def preload() -> None:
    """Load the model, the compiled code and all views. What is loaded already takes no time."""
    # Loading mostly decompresses data, which another core can do at the same time.
    language_loader = Thread(target=languages.load)
    language_loader.start()
    scorer = None
    try:
        scorer = serving.current().scorer
    except NoModelError as error:
        logger.warning("%s", error)
    reverse("health")  # imports every view
    language_loader.join()
    languages.load()  # raises the exception if the thread failed
    if scorer:
        warm(scorer)
    release_compiler()
    connections.close_all()
