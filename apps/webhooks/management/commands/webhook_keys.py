"""Show and rotate the secrets that sign a platform's webhooks."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management import CommandError

from apps.accounts.models import APIKey
from apps.core.management import ProjectCommand, get_operator, number_from
from apps.core.permissions import SystemActor
from apps.webhooks import actions, signing
from apps.webhooks.models import SigningKey


class Command(ProjectCommand):
    help = """Show the signing keys of a platform's webhooks, show or rotate its secret, or send a test.

The command can read every secret, because it has the site's SECRET_KEY."""
    examples = (
        "  manage.py webhook_keys\n"
        "  manage.py webhook_keys news --rotate --overlap 48\n"
        "  manage.py webhook_keys news --show\n"
        "  manage.py webhook_keys news --end 7k2mwx9qhd4bvt3c\n"
        "  manage.py webhook_keys news --test https://news.example/webhooks"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("platform", nargs="?", help="The API key's name or number; all without it.")
        action = parser.add_mutually_exclusive_group()
        action.add_argument("--rotate", action="store_true", help="Create a secret and print it.")
        action.add_argument("--show", action="store_true", help="Print the secrets that sign now.")
        action.add_argument("--end", metavar="ID", help="End one of two secrets that sign.")
        action.add_argument("--test", metavar="URL", help="Send a test webhook.")
        parser.add_argument(
            "--overlap",
            type=number_from(0.0, 720.0),
            default=24,
            help="With --rotate: for how many hours the old one signs (24).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["platform"] is None:
            if any(options[name] for name in ("rotate", "show", "end", "test")):
                raise CommandError("Name the platform: see `manage.py webhook_keys`.")
            for api_key in APIKey.objects.active():
                self._list(api_key)
            return
        api_key = _find_api_key(options["platform"])
        actor = SystemActor(f"{get_operator().name} (command line)"[:150])
        if options["rotate"]:
            overlap = timedelta(hours=options["overlap"])
            key, secret = actions.rotate_signing_key(api_key=api_key, actor=actor, overlap=overlap)
            self.stdout.write(f"{key.key_id} {secret}")
        elif options["show"]:
            for key in SigningKey.objects.active().filter(api_key=api_key):
                self.stdout.write(f"{key.key_id} {signing.secret_of(key)}")
        elif options["end"]:
            actions.end_signing_key(api_key=api_key, key_id=options["end"], actor=actor)
            self.stdout.write(f"{options['end']} does not sign any more.")
        elif options["test"]:
            attempt = actions.send_test(api_key=api_key, url=options["test"], actor=actor)
            if not attempt.is_delivered:
                raise CommandError(attempt.sentence)
            self.stdout.write(attempt.sentence)
        else:
            self._list(api_key)

    def _list(self, api_key: APIKey) -> None:
        keys = SigningKey.objects.active().filter(api_key=api_key)
        states = [
            f"{key.key_id} until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else key.key_id
            for key in keys
        ]
        self.stdout.write(f"{api_key.pk} {api_key}: {', '.join(states) or 'not signed'}")


def _find_api_key(name: str) -> APIKey:
    keys = APIKey.objects.active().filter(name=name)
    if not keys and name.isdecimal():
        keys = APIKey.objects.active().filter(pk=int(name))
    if len(keys) != 1:
        how_many = "no" if not keys else "more than one"
        raise CommandError(f"There is {how_many} active API key {name}: see `manage.py webhook_keys`.")
    return keys[0]
