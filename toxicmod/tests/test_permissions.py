"""Who gets through which door: every URL of the site, as every role and with every kind of key."""

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import pytest
from django.contrib import admin
from django.db import transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from pytest_django import Settings

from apps.accounts.actions import create_api_key
from apps.accounts.models import APIKey, Scope, User
from apps.moderation import actions, webhooks
from apps.moderation.models import Decision, Policy, QueueItem
from apps.moderation.tests.conftest import (  # noqa: F401
    client_key,
    item,
    model,
    person,
    policy,
    queued,
)
from apps.monitoring.models import Alert, AlertRule, Notice, UncountedHour
from apps.predictions.actions import give_feedback
from apps.registry.models import Canary, CanaryEnd, CanaryFailure, ModelVersion
from apps.training.models import Dataset, GateReport
from apps.training.runs import queue_run
from apps.webhooks.actions import Actor, rotate_signing_key

pytestmark = pytest.mark.django_db

ROLES = {"v": "viewer", "m": "moderator", "l": "lead", "e": "engineer", "a": "administrator"}
DASH = "the_django_plotly_dash:"  # ten doors that all ask the dashboard's decorator
EVERYBODY = "-nvmlea"  # `-` is nobody in particular, `n` is signed in and no staff
STAFF = "vmlea"
# Each door: how it is knocked at, and who may come in. A new URL needs a row.
DOORS: dict[str, tuple[str, str]] = {
    "health": ("get", EVERYBODY),
    "ready": ("get", EVERYBODY),
    "metrics": ("get", EVERYBODY),  # nothing is there without METRICS_TOKEN, and with it nobody without it
    "monitoring:dashboard": ("get", "lea"),
    "monitoring:csv": ("get", "lea"),
    "admin:index": ("get", STAFF),
    "admin:login": ("get", EVERYBODY),
    "admin:logout": ("post", EVERYBODY),
    "admin:second_factor": ("get", STAFF),
    "admin:password_change": ("get", STAFF),
    "admin:password_change_done": ("get", STAFF),
    "admin:autocomplete": ("get", ""),
    "admin:jsi18n": ("get", STAFF),
    "admin:auth_user_password_change": ("get", "a"),
    "admin:view_on_site": ("get", STAFF),
    "admin:moderation_desk": ("get", STAFF),
    "admin:moderation_item": ("get", STAFF),
    "admin:moderation_next": ("post", "mla"),
    "admin:moderation_claim": ("post", "mla"),
    "admin:moderation_release": ("post", "mla"),
    "admin:moderation_similar": ("get", "mla"),
    "admin:moderation_decide": ("post", "mla"),
    "admin:moderation_skip": ("post", "mla"),
    "admin:moderation_later": ("post", "mla"),
    "admin:moderation_look": ("post", STAFF),
    "admin:moderation_undo": ("post", "mla"),
    "admin:moderation_statement": ("get", "la"),
    "admin:moderation_decisions_csv": ("get", "la"),
    "admin:moderation_search": ("get", STAFF),
    "admin:moderation_bulk": ("get", "la"),
    "admin:moderation_job": ("get", "la"),
    "admin:moderation_policies": ("get", STAFF),
    "admin:moderation_policy": ("get", STAFF),
    "admin:moderation_quality": ("get", STAFF),
    "admin:moderation_webhooks": ("get", "la"),
    "admin:moderation_resend": ("post", "la"),
    "admin:moderation_resend_all": ("post", "la"),
    "admin:moderation_signing": ("get", "a"),
    "admin:moderation_rotate_signing_key": ("post", "a"),
    "admin:moderation_end_signing_key": ("post", "a"),
    "admin:moderation_test_webhook": ("post", "a"),
    "admin:moderation_me": ("get", STAFF),
    "admin:moderation_help": ("get", STAFF),
    "admin:training_trainingrun_start": ("get", "ea"),
    "admin:training_challenger": ("get", "lea"),
    "admin:training_roll_back": ("get", "lea"),
    "admin:training_trainingrun_watch": ("get", "lea"),
    "admin:training_trainingrun_progress": ("get", "lea"),
    "admin:app_list": ("get", STAFF),
    "admin/(?P<url>.*)$": ("get", STAFF),
    "pages:home": ("get", EVERYBODY),
    "pages:live": ("post", EVERYBODY),
    "pages:example": ("get", EVERYBODY),
    "pages:result": ("get", EVERYBODY),
    "pages:feedback": ("post", EVERYBODY),
    "pages:favicon": ("get", EVERYBODY),
    "pages:appeal": ("get", EVERYBODY),
    "pages:model": ("get", EVERYBODY),
    "pages:model_version": ("get", EVERYBODY),
}
# Each model in the admin: who may see it, add to it, delete from it.
MODELS: dict[str, tuple[str, str, str]] = {
    "auth.group": ("a", "a", "a"),
    "accounts.user": ("a", "a", "a"),
    "accounts.apikey": ("a", "a", ""),
    "registry.modelversion": ("lea", "", ""),
    "registry.promotion": ("lea", "", ""),
    "registry.canary": ("lea", "", ""),
    "registry.canaryend": ("lea", "", ""),
    "registry.canaryfailure": ("ea", "", ""),
    "predictions.prediction": (STAFF, "", ""),
    "predictions.feedback": (STAFF, "", ""),
    "moderation.queueitem": (STAFF, "", ""),
    "moderation.decision": (STAFF, "", ""),
    "moderation.automaticdecision": (STAFF, "", ""),
    "moderation.policy": (STAFF, "", ""),
    "moderation.author": (STAFF, "", ""),
    "moderation.strike": ("a", "", ""),
    "moderation.appeal": (STAFF, "", ""),
    "moderation.delivery": ("la", "", ""),
    "webhooks.signingkey": ("a", "", ""),
    "webhooks.endpoint": ("a", "", ""),
    "moderation.bulkjob": ("la", "", ""),
    "monitoring.alertrule": ("ea", "ea", ""),
    "monitoring.alert": ("lea", "", ""),
    "monitoring.notice": ("ea", "", ""),
    "monitoring.scheduledtask": ("ea", "", ""),
    "monitoring.uncountedhour": ("ea", "", ""),
    "training.dataset": ("ea", "", ""),
    "training.trainingrun": ("lea", "", ""),
    "training.gatereport": ("lea", "", ""),
}
# Each door of the API: how it is knocked at, and the scope that opens it.
API: dict[str, tuple[str, str]] = {
    "v1:predict": ("post", "predict"),
    "v1:predict_proba": ("post", "predict"),
    "v1:prediction": ("get", "read"),
    "v1:feedback": ("post", "feedback"),
    "v1:example": ("get", "read"),
    "v1:models": ("get", "read"),
    "v1:current_model": ("get", "read"),
    "v1:stats": ("get", "read"),
    "v1:moderate": ("post", "predict"),
    "v1:queue": ("get", "moderate"),
    "v1:claim_next": ("post", "moderate"),
    "v1:queue_item": ("get", "moderate"),
    "v1:claim": ("post", "moderate"),
    "v1:decide": ("post", "moderate"),
    "v1:release": ("post", "moderate"),
    "v1:undo": ("post", "moderate"),
    "v1:moderation_stats": ("get", "moderate"),
    "v1:appeals": ("post", "feedback"),
    "v1:webhook_keys": ("get", "webhooks"),
    "v1:webhook_key": ("delete", "webhooks"),
    "v1:webhook_test": ("post", "webhooks"),
    "v1:schema": ("get", "all"),
    "v1:docs": ("get", "all"),
    "v1alpha1/comments:analyze": ("post", "predict"),
    "v1alpha1/comments:suggestscore": ("post", "feedback"),
    "$discovery/rest": ("get", "all"),
    "discovery/v1/apis/commentanalyzer/v1alpha1/rest": ("get", "all"),
    "batch": ("post", "all"),
    "^v1alpha1/": ("get", "all"),
}


class Door(NamedTuple):
    """A URL of the site: its name, or its pattern where it has none, and its pattern with its converters."""

    name: str
    path: str
    pattern: URLPattern


def doors(resolver: URLResolver, before: str = "", namespace: str = "") -> Iterator[Door]:
    for entry in resolver.url_patterns:
        path = before + str(entry.pattern)
        if isinstance(entry, URLResolver):
            inner = f"{namespace}{entry.namespace}:" if entry.namespace else namespace
            yield from doors(entry, path, inner)
        else:
            yield Door(namespace + entry.name if entry.name else path, path, entry)


DOORS_OF_ALL = {door.name: door for door in doors(get_resolver())}


def is_model_page(door: Door) -> bool:
    """Whether it is one of the five pages that the admin has for each model, or leads to one."""
    kinds = ("_changelist", "_add", "_history", "_delete", "_change", "<path:object_id>/")
    return door.path.startswith("admin/") and door.name.endswith(kinds) and "password" not in door.path


@pytest.fixture
def world(item: QueueItem, client_key: APIKey, person: Callable[..., User]) -> dict[str, Any]:  # noqa: F811
    """One of everything, and somebody of each role."""
    people = {letter: person(role, role) for letter, role in ROLES.items()}
    User.objects.exclude(username="").update(is_staff=True)
    people["n"] = User.objects.create_user("nobody")
    held = actions.claim(item_id=item.pk, user=people["m"])
    decided = actions.decide(
        item_id=held.pk,
        version=held.version,
        user=people["m"],
        action=Decision.Action.REJECT,
        rule=held.default_rule(),
    ).decision
    token = webhooks.appeal_token(decided)
    actions.appeal(token=token)
    rotate_signing_key(client=client_key, actor=Actor.for_user(people["a"]))
    job, _ = actions.preview_bulk(
        user=people["l"], filter={"label": "insult", "score_from": 0.5}, action=Decision.Action.APPROVE
    )
    actions.moderate(text="insult=0.99 you fool")  # which the policy rejects by itself
    prediction = item.prediction
    give_feedback(prediction=prediction, is_right=True)
    champion = ModelVersion.objects.get(alias="champion")
    dataset = Dataset.objects.create(
        name="ours", version=1, sha256="0" * 64, source="ours.csv", rows=2, labelled=1, positives={"toxic": 1}
    )
    run = queue_run(dataset=dataset)
    GateReport.objects.create(version=champion, champion=champion, gates=[])
    canary = Canary.objects.create(version=champion, champion=champion, share=0.1, gates=[])
    CanaryEnd.objects.create(canary=canary, outcome="withdrawn", bands=[])
    CanaryFailure.objects.create(version=champion, error="OSError")
    rule = AlertRule.objects.create(name="Calls fail", metric="error_share", threshold=0.01)
    alert = Alert.objects.create(
        rule=rule, metric=rule.metric, threshold=0.01, value=1, low=1, high=1, window_hours=1
    )
    UncountedHour.objects.create(
        origin="database", hour=alert.opened_at, error="ValueError", retry_at=alert.opened_at
    )
    Notice.objects.create(alert=alert, event="alert.opened", channel="email", send_after=alert.opened_at)
    waiting = queued("insult=0.7 you other fool", client=client_key)
    keys = {
        scope: create_api_key(name=scope, scopes=[scope], acts_as=people["m"])[1] for scope in Scope.values
    }
    return {
        "people": people,
        "secrets": keys,
        "signing": client_key.pk,
        "decision": decided.pk,
        "policies": Policy.objects.active_for("").pk,  # type: ignore[union-attr]
        "webhooks": decided.deliveries.get().pk,
        "bulk": job.pk,
        "item": waiting.pk,
        "queue": waiting.pk,
        "trainingrun": run.pk,
        "predictions": prediction.pk,
        "r": prediction.pk,
        "appeal": token,
        "model": champion.number,
        "user": people["v"].pk,
        "monitoring": "now",
    }


def address(door: Door, world: dict[str, Any]) -> str:
    """Return a URL of the door at which something stands."""
    path = door.path.replace("^v1alpha1/", "v1alpha1/other").replace("(?P<url>.*)$", "nothing-here/")
    path = re.sub(r"\^\(\?P<app_label>.*\)/\$", "moderation/", path)
    path = path.replace("<path:content_type_id>/<path:object_id>", "1/1").replace("<id>", str(world["user"]))
    parts = path.split("/")
    for at, part in enumerate(parts):
        if "<" in part:
            kinds = [
                kind for kind in reversed(parts[:at]) if kind.removesuffix("s") in world or kind in world
            ]
            value = world.get(kinds[0], world.get(kinds[0].removesuffix("s")))
            parts[at] = re.sub(r"<.*>", str(value), part)
    return "/" + "/".join(parts)


def admits(response: HttpResponse) -> bool:
    if response.status_code == 302:
        return not response["Location"].startswith("/admin/login/")
    assert response.status_code < 500, response.content[:500]
    return response.status_code not in (401, 403)


def knock(client: Client, method: str, url: str, **extra: Any) -> bool:
    """Ask, and undo what it did."""
    cookies = deepcopy(client.cookies)
    with transaction.atomic():
        found = admits(getattr(client, method)(url, **extra))
        transaction.set_rollback(True)
    client.cookies = cookies
    return found


@pytest.fixture
def clients(world: dict[str, Any]) -> dict[str, Client]:
    found = {"-": Client()}
    for letter, user in world["people"].items():
        found[letter] = Client()
        found[letter].force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return found


def let_in(clients: dict[str, Client], method: str, url: str) -> str:
    # A verdict must be whole before it is asked whose it is.
    extra = {"data": {"action": "approve", "version": 1}} if url.endswith("/decide/") else {}
    return "".join(letter for letter in EVERYBODY if knock(clients[letter], method, url, **extra))


def test_every_door_is_open_to_whom_the_table_says(world: dict[str, Any], clients: dict[str, Client]) -> None:
    named = {
        name: door
        for name, door in DOORS_OF_ALL.items()
        if not is_model_page(door) and name not in API and not name.startswith(DASH)
    }
    assert named.keys() == DOORS.keys(), "a new URL needs a row, and a row its URL"
    found = {
        name: (DOORS[name][0], let_in(clients, DOORS[name][0], address(door, world)))
        for name, door in named.items()
    }
    assert found == DOORS


def test_no_door_of_dash_is_open_to_who_may_not_see_the_dashboard(
    world: dict[str, Any], clients: dict[str, Client]
) -> None:
    named = [door for name, door in DOORS_OF_ALL.items() if name.startswith(DASH)]
    assert len(named) >= 7
    for door in named:
        url = re.sub(r"<.*?>", "dashboard", "/" + door.path)
        for method in ("get", "post"):
            assert not any(knock(clients[letter], method, url) for letter in "-nvm"), url


def test_every_model_is_open_to_whom_the_table_says(clients: dict[str, Client]) -> None:
    found = {}
    for kind in admin.site._registry:
        name = kind._meta.label_lower
        row = kind._default_manager.first()
        assert row is not None, f"the test has no {name}"
        base = f"/admin/{name.replace('.', '/')}"
        seen = [
            let_in(clients, "get", f"{base}/{page}")
            for page in ("", f"{row.pk}/change/", f"{row.pk}/history/")
        ]
        assert len(set(seen)) == 1, (name, seen)
        found[name] = (
            seen[0],
            let_in(clients, "get", f"{base}/add/"),
            let_in(clients, "get", f"{base}/{row.pk}/delete/"),
        )
    assert found == MODELS, "a new model needs a row"


def test_every_door_of_the_api_opens_to_the_scope_that_the_table_says(
    world: dict[str, Any], settings: Settings
) -> None:
    settings.ANONYMOUS_API = False
    found = {}
    for name, (method, _) in API.items():
        url = address(DOORS_OF_ALL[name], world)
        opened = [
            scope
            for scope, secret in [("", ""), *world["secrets"].items()]
            if knock(
                Client(),
                method,
                url,
                headers={"Authorization": f"Api-Key {secret}"} if secret else {},
                **({"data": "{}", "content_type": "application/json"} if method == "post" else {}),
            )
        ]
        found[name] = (method, " ".join(opened) if opened != ["", *Scope.values] else "all")
    assert found == API
