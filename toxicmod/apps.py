from django.apps import AppConfig
from django.contrib.admin import apps as admin


class ToxicmodConfig(AppConfig):
    name = "toxicmod"
    default = True

    def ready(self) -> None:
        from toxicmod import checks  # noqa: F401  (registers the checks; importable only once apps are loaded)


class SiteConfig(admin.SimpleAdminConfig):
    """The admin. Its pages are loaded with the URLs, which not every command needs."""

    default_site = "toxicmod.sites.Site"
