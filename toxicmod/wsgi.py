"""The WSGI application. All that a first request needs is loaded and compiled before gunicorn forks.

Workers share the pages, and no first request waits for the compiler.
"""

import logging
import os
from threading import Thread

from django.core.wsgi import get_wsgi_application

from apps.api.perspective import languages

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "toxicmod.settings")
# Most of it is to decompress, which another core can do meanwhile.
loading = Thread(target=languages.load)
loading.start()

application = get_wsgi_application()

from django.db import connections  # noqa: E402  (needs the settings)
from django.urls import reverse  # noqa: E402

from apps.api.short_way import ShortWay  # noqa: E402
from apps.classifier.scorer import warm  # noqa: E402
from apps.monitoring import counting  # noqa: E402
from apps.registry import serving  # noqa: E402

application = ShortWay(application, counting.count)
try:
    warm(serving.current().scorer)
except serving.NoModelError as error:
    logging.getLogger(__name__).warning("%s", error)
reverse("health")  # imports every view
loading.join()
languages.load()  # an error where the thread could not
connections.close_all()
