"""The WSGI application; the serving model is loaded before gunicorn forks, so that workers share its pages."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "toxicmod.settings")

application = get_wsgi_application()
