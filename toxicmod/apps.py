from django.apps import AppConfig
from django.contrib.admin import apps as admin


class ToxicmodConfig(AppConfig):
    name = "toxicmod"
    default = True

    def ready(self) -> None:
        from toxicmod import checks  # noqa: F401  (registers the checks; importable only once apps are loaded)


class SiteConfig(admin.AdminConfig):
    default = False
    default_site = "toxicmod.sites.Site"
