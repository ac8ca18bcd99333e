"""Configuration of the project as an app, and of the admin."""

from django.apps import AppConfig
from django.contrib.admin import apps as admin


class ToxicmodConfig(AppConfig):
    name = "toxicmod"
    default = True

    def ready(self) -> None:
        from toxicmod import checks  # noqa: F401  (registers the checks, which need the loaded apps)


class AdminConfig(admin.SimpleAdminConfig):
    """The admin without autodiscovery: `toxicmod.urls` loads its pages, which most commands don't need."""

    default_site = "toxicmod.sites.ToxicmodAdminSite"
