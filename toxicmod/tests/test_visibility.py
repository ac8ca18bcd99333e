"""A user of one community sees only its rows: on admin pages and staff pages, in exports and in API lists.

Two communities have the same kinds of rows. All texts of the other community contain `MARKER`, which must not
appear. A new model in the admin needs an entry in `VISIBLE` or `GLOBAL`. The test requests every URL.
"""

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any
from urllib.parse import urlencode

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.accounts.actions import create_api_key
from apps.accounts.models import APIKey, User
from apps.classifier.labels import LABELS
from apps.connectors.models import Connection, PlatformAction
from apps.core.permissions import SYSTEM
from apps.moderation import actions, webhooks
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import (
    Appeal,
    Author,
    AutomaticDecision,
    BulkJob,
    Decision,
    Delivery,
    Policy,
    QueueItem,
    Strike,
)
from apps.monitoring.dashboard import PANELS
from apps.monitoring.models import SITE_METRICS, Alert, AlertRule, DomainCheck, HourlyRollup, Notification
from apps.monitoring.rollups.hours import start_of_hour
from apps.predictions.actions import give_feedback
from apps.predictions.models import Feedback, Prediction
from apps.registry.models import Alias, ModelVersion
from apps.training.actions import create_run
from apps.training.models import Dataset, ShadowScore
from toxicmod.testing.dashboard import CALLBACK, callback_body
from toxicmod.testing.endpoints import ENDPOINTS, Endpoint, build_url, is_model_page
from toxicmod.testing.factories import connect_platform, create_queue_item, restrict_to_communities

pytestmark = [pytest.mark.django_db, pytest.mark.database]

HERE, MARKER = "alpha", "zebraquartz"
BACKEND = "django.contrib.auth.backends.ModelBackend"
# Each table of the admin that belongs to communities: which rows a user of `HERE` sees.
VISIBLE: dict[str, Callable[[], QuerySet[Any]]] = {
    "predictions.prediction": lambda: Prediction.objects.filter(community=HERE),
    "predictions.feedback": lambda: Feedback.objects.filter(prediction__community=HERE),
    "moderation.queueitem": lambda: QueueItem.objects.filter(submission__community=HERE),
    "moderation.decision": lambda: Decision.objects.filter(submission__community=HERE),
    "moderation.automaticdecision": lambda: AutomaticDecision.objects.filter(submission__community=HERE),
    "moderation.policy": lambda: Policy.objects.filter(community__in=["", HERE]),
    "moderation.author": lambda: Author.objects.filter(community=HERE),
    "moderation.strike": lambda: Strike.objects.filter(author__community=HERE),
    "moderation.appeal": lambda: Appeal.objects.filter(item__community=HERE),
    "moderation.delivery": lambda: Delivery.objects.filter(decision__submission__community=HERE),
    "moderation.bulkjob": lambda: BulkJob.objects.filter(filter__community=HERE),
    "connectors.connection": lambda: Connection.objects.filter(community=HERE),
    "connectors.platformaction": lambda: PlatformAction.objects.filter(comment__submission__community=HERE),
    # Alerts compare metrics of all communities, except technical ones.
    "monitoring.alert": lambda: Alert.objects.filter(metric="error_share"),
    "monitoring.notification": lambda: Notification.objects.filter(alert__metric="error_share"),
}
# Tables that belong to the whole site: users, keys, models and their training contain no comments.
GLOBAL = {
    "auth.group",
    "accounts.user",
    "accounts.apikey",
    "axes.accessattempt",
    "registry.modelversion",
    "registry.promotion",
    "registry.canary",
    "registry.canaryend",
    "registry.canaryfailure",
    "webhooks.endpoint",
    "webhooks.signingkey",
    "mirror.mirrorstate",
    "monitoring.alertrule",
    "monitoring.scheduledtask",
    "monitoring.incompletehour",
    "training.dataset",
    "training.trainingrun",
    "training.gatereport",
}
# Parts of URLs before an argument that identifies no row of a community; see `GLOBAL`.
SITE_KINDS = {
    "user", "trainingrun", "model", "monitoring", "appeal", "signing", "key", "<int:pk>", "admin", "r",
    "<path:content_type_id>",
}  # fmt: skip


def fill(community: str, marker: str, key: APIKey, people: dict[str, User]) -> dict[str, Any]:
    """Create rows of each kind in a community, with the marker in every text."""
    lead, root, other = people["lead"], people["root"], people["other"]
    rules = [
        {"label": "insult", "title": f"Insults {marker}", "review_from": 0.6, "reason": f"reason {marker}"},
        {"label": "threat", "title": f"Threats {marker}", "reject_from": 0.95, "reason": f"reason {marker}"},
    ]
    without_chance = dict.fromkeys(("audit_share", "reject_audit_share", "second_review_share"), 0.0)
    draft = actions.draft_policy(user=root, community=community, rules=rules, **without_chance)
    actions.activate_policy(policy=draft, user=root, reason=f"because {marker}")

    def comment(number: int) -> QueueItem:
        return create_queue_item(
            f"insult=0.7 {marker} comment {number}",
            community=community,
            author_ref=f"author-{marker}-{number}",
            external_id=f"external-{marker}-{number}",
            context={"title": f"title {marker}"},
            api_key=key,
            callback_url=f"https://platform.example/{marker}",
        )

    def decide(item: QueueItem, action: str) -> Decision:
        held = actions.claim(item_id=item.pk, user=lead)
        return actions.decide(
            item_id=item.pk,
            version=held.version,
            user=lead,
            action=Decision.Action(action),
            rule=held.default_rule() if action == "reject" else None,
            note=f"note {marker}",
        ).decision

    rejected, approved, waiting = comment(1), comment(2), comment(3)
    decision = decide(rejected, "reject")
    decide(approved, "approve")
    token = webhooks.appeal_token(decision)
    actions.appeal(token=token, text=f"appeal {marker}")
    Delivery.objects.filter(decision=decision).update(status=Delivery.Status.FAILED, error=f"error {marker}")
    give_feedback(prediction=waiting.prediction, is_right=False, remark=f"remark {marker}")
    actions.moderate(text=f"threat=0.99 {marker}", community=community, api_key=key)
    job, _ = actions.preview_bulk(
        user=lead,
        filter={"label": "insult", "community": community},
        action=Decision.Action.APPROVE,
        note=f"bulk {marker}",
    )
    other.community_access.create(community=community)
    platform = connect_platform(decision, base_url=f"https://{marker}.example", api_user=f"user {marker}")
    return {
        "connectors": platform.pk,
        "decision": decision.pk,
        "policies": draft.pk,
        "webhooks": decision.deliveries.get().pk,
        "bulk": job.pk,
        "item": waiting.pk,
        "queue": waiting.pk,
        "predictions": waiting.submission_id,
        "r": waiting.submission_id,
        "appeal": token,
        "author": f"author-{marker}-3",
        "external": f"external-{marker}-3",
    }


class World:
    """Two communities, a user with access to one of them, and that user's client and API key."""

    def __init__(self, key: APIKey, make: Callable[..., User]) -> None:
        people = {"lead": make("lead", "lead"), "root": User.objects.create_superuser("root")}
        people["other"] = make("other", all_communities=False)
        self.here, self.there = (fill(name, name, key, people) for name in (HERE, MARKER))
        self.user = make("limited", "lead")
        self.user.user_permissions.set(Permission.objects.all())
        User.objects.filter(pk=self.user.pk).update(is_staff=True)
        self.user = User.objects.get(pk=self.user.pk)
        restrict_to_communities(self.user, HERE)
        self._create_site_rows()
        self.client = Client()
        self.client.force_login(self.user, backend=BACKEND)
        self.secret = create_api_key(actor=SYSTEM, name="limited", acts_as=self.user)[1]

    def _create_site_rows(self) -> None:
        champion = ModelVersion.objects.get(alias=Alias.CHAMPION)
        challenger = ModelVersion.objects.create(
            number=champion.number + 1, alias=Alias.CHALLENGER, recipe="two_level", sha256="1" * 64,
            manifest=champion.manifest, metrics=champion.metrics,
        )  # fmt: skip
        for prediction in Prediction.objects.all():
            ShadowScore.objects.create(
                prediction=prediction, version=challenger, label_mask=0, **dict.fromkeys(LABELS, 0.1)
            )
        DomainCheck.objects.create(
            version=champion, baseline_name="made-up v1", comments=10, auc=0.7, low=0.6, high=0.8,
            phrases=[[MARKER, 0.001, 0.04, 9.0]],
        )  # fmt: skip
        for metric in ("error_share", "queue_items"):
            rule = AlertRule.objects.create(name=metric, metric=metric, threshold=0.01)
            alert = Alert.objects.create(
                rule=rule, metric=metric, threshold=0.01, value=1, low=1, high=1, window_hours=1
            )
            Notification.objects.create(
                alert=alert, event="alert.opened", channel="email", send_after=alert.opened_at
            )
        dataset = Dataset.objects.create(
            name="ours", version=1, sha256="0" * 64, source="ours.csv", rows=2, labelled=1, positives={}
        )
        site = {
            "user": User.objects.get(username="other").pk,
            "trainingrun": create_run(actor=SYSTEM, dataset=dataset).pk,
            "model": champion.number,
            "monitoring": "health",
            "signing": APIKey.objects.get(name="platform").pk,
            "keys": "some-key",
        }
        self.here |= site
        self.there |= site

    def request(self, method: str, url: str, **extra: Any) -> HttpResponse:
        """Send a request, roll its changes back, and check that the response shows no other community."""
        if url.startswith("/api/"):
            extra["headers"] = {"Authorization": f"Api-Key {self.secret}"}
            if method == "post":
                extra |= {"data": "{}", "content_type": "application/json"}
        cookies = deepcopy(self.client.cookies)
        with transaction.atomic():
            response = getattr(self.client, method)(url, **extra)
            body = response.getvalue()
            transaction.set_rollback(True)
        self.client.cookies = cookies
        assert response.status_code < 500, (url, body[:300])
        assert MARKER not in response.get("Location", ""), url
        assert MARKER.encode() not in body.replace(url.encode(), b""), (method, url)
        return response


@pytest.fixture
def world(model: Any, policy: Policy, platform_key: APIKey, person: Callable[..., User]) -> World:
    return World(platform_key, person)


def registered() -> list[type[Model]]:
    return [model for model in apps.get_models() if admin.site.is_registered(model)]


def names_of(endpoint: Endpoint) -> set[str]:
    """Return the kinds of rows that a URL identifies."""
    parts = endpoint.path.split("/")
    return {parts[index - 1].rstrip("s") for index, part in enumerate(parts) if "<" in part}


def test_every_alert_metric_is_classified() -> None:
    of_communities = {
        "requests_per_hour", "flag_share", "flag_change", "score_psi", "length_psi", "unknown_change",
        "training_psi", "wrong_share", "queue_growth", "queue_items", "queue_oldest_hours",
    }  # fmt: skip
    assert {*SITE_METRICS, *of_communities} == set(AlertRule.Metric.values)


def test_every_model_of_the_admin_is_classified() -> None:
    assert {model._meta.label_lower for model in registered()} == {*VISIBLE, *GLOBAL}
    assert not GLOBAL & set(VISIBLE)


def test_admin_lists_pages_and_searches_hold_no_other_community(world: World) -> None:
    for kind in registered():
        label = kind._meta.label_lower
        base = f"admin:{label.replace('.', '_')}"
        for query in ("", "?_facets=True", "?all="):
            response = world.request("get", reverse(f"{base}_changelist") + query)
        rows = response.context["cl"].result_count
        expected = VISIBLE[label]() if label in VISIBLE else kind._default_manager.all()
        assert rows == expected.count(), label
        if label not in VISIBLE:
            for row in kind._default_manager.all():
                world.request("get", reverse(f"{base}_change", args=[row.pk]))
                world.request("get", reverse(f"{base}_delete", args=[row.pk]))
                world.request("get", reverse(f"{base}_history", args=[row.pk]))
            continue
        assert expected.exists(), label
        for row in expected[:1]:
            assert world.request("get", reverse(f"{base}_change", args=[row.pk])).status_code == 200, label
        hidden = kind._default_manager.exclude(pk__in=expected.values("pk"))
        assert hidden.exists(), label
        for row in hidden:
            for page in ("change", "history", "delete"):
                response = world.request("get", reverse(f"{base}_{page}", args=[row.pk]))
                # The admin redirects to its first page if it does not find a row.
                assert response.status_code in (302, 403, 404), (label, page)
                assert response.get("Location", "/admin/") == "/admin/", (label, page)
            words = [row.pk, *(getattr(row, name) for name in ("external_id", "ref") if hasattr(row, name))]
            for word in filter(None, words):
                url = f"{reverse(f'{base}_changelist')}?{urlencode({'q': word})}"
                if admin.site.get_model_admin(kind).search_fields:
                    changelist = world.client.get(url).context["cl"]
                    assert changelist.result_count == 0, (label, word)


def test_autocomplete_and_links_hold_no_other_community(world: World) -> None:
    for kind in registered():
        for field in kind._meta.get_fields():
            if field.many_to_one and admin.site.is_registered(field.related_model):
                query = {
                    "app_label": kind._meta.app_label,
                    "model_name": kind._meta.model_name,
                    "field_name": field.name,
                    "term": "",
                }
                world.request("get", f"{reverse('admin:autocomplete')}?{urlencode(query)}")


def staff_endpoints() -> Iterator[Endpoint]:
    for name, endpoint in ENDPOINTS.items():
        is_staff = endpoint.path.startswith(("admin/", "monitoring/", "api/v1/")) and not is_model_page(
            endpoint
        )
        if is_staff and "the_django_plotly_dash" not in name:
            yield endpoint


def test_no_url_shows_another_community(world: World) -> None:
    problems, requested = [], 0
    for endpoint in staff_endpoints():
        here, there = build_url(endpoint, world.here), build_url(endpoint, world.there)
        identifies_row = here != there
        assert identifies_row == bool(names_of(endpoint) - SITE_KINDS), f"{endpoint}: which row does it name?"
        for method in ("get", "post"):
            bodies: list[dict[str, str]] = [{"action": "approve", "version": "1"}]
            if identifies_row and method == "post":
                bodies += [{"do": do, "reason": "x", "typed": "1"} for do in ("cancel", "activate", "save")]
            for body in bodies:
                status = world.request(method, there, data=body).status_code
                if identifies_row and status not in (403, 404, 405):
                    problems.append((method, there, body, status))
        if identifies_row and endpoint.name != "v1:prediction":  # each key has its own predictions
            requested += 1
            if not {world.request(method, here).status_code for method in ("get", "post")} - {403, 404, 405}:
                problems.append((here, "is not there either"))
    assert not problems
    assert requested >= 15


@pytest.mark.parametrize("word", ["author", "external", "item", "predictions"])
def test_console_search_finds_no_other_community(world: World, word: str) -> None:
    url = reverse("admin:moderation_search")
    assert world.client.get(url, {"q": world.here[word]}).status_code == 302
    response = world.client.get(url, {"q": world.there[word]})
    assert response.status_code == 200
    assert response.context["items"] == []


def test_search_is_not_crowded_out_by_other_communities(world: World, person: Callable[..., User]) -> None:
    for number in range(25):
        create_queue_item(
            f"insult=0.7 {MARKER} number {number}", community=f"{MARKER}-{number}", author_ref="ours"
        )
    visible_item = create_queue_item("insult=0.7 ours", community=HERE, author_ref="ours")
    response = world.client.get(reverse("admin:moderation_search"), {"q": "ours"})
    assert response["Location"] == reverse("admin:moderation_item", args=[visible_item.pk])


def test_counts_cover_only_the_users_communities(world: World) -> None:
    items = QueueItem.objects.filter(community=HERE, status="open")
    appeals = Appeal.objects.filter(item__community=HERE, status="open").count()
    views = {
        view.view: view.count
        for view in world.client.get(reverse("admin:moderation_review"), follow=True).context["views"]
    }
    for name, count in views.items():
        queue = items if name == "all" else items.filter(queue=name)
        if name not in ("mine", "overdue"):
            assert count == queue.count(), name
    assert world.client.get(reverse("admin:moderation_quality")).context["appeals"]["open"] == appeals
    statistics = world.client.get(
        "/api/v1/moderation/stats", headers={"Authorization": f"Api-Key {world.secret}"}
    ).json()
    assert statistics["appeals"]["open"] == appeals
    assert {view["view"]: view["count"] for view in statistics["views"]}["all"] == items.count()
    listed = world.client.get(
        "/api/v1/moderation/queue", headers={"Authorization": f"Api-Key {world.secret}"}
    ).json()["results"]
    assert {row["id"] for row in listed} == set(items.values_list("pk", flat=True))
    export = world.client.get(reverse("admin:moderation_decisions_csv") + "?automatic=on").getvalue().decode()
    assert MARKER not in export
    assert len(export.splitlines()) == 1 + Decision.objects.filter(submission__community=HERE).count()
    jobs = world.client.get(reverse("admin:moderation_bulk")).context["jobs"]
    assert [job.pk for job in jobs] == [world.here["bulk"]]
    comparison = world.client.get(reverse("admin:training_challenger")).context["comparison"]
    assert comparison.count == Prediction.objects.filter(community=HERE).count()


def test_bulk_form_offers_the_communities_that_the_user_sees(world: World) -> None:
    form = world.client.get(reverse("admin:moderation_bulk")).context["form"]
    assert [value for value, _ in form.fields["community"].choices] == ["", f"={HERE}"]
    response = world.client.post(
        reverse("admin:moderation_bulk"), {"label": "insult", "community": f"={MARKER}", "action": "approve"}
    )
    assert response.status_code == 422


def test_bulk_job_of_all_communities_needs_access_to_all(world: World) -> None:
    lead = User.objects.get(username="lead")
    everywhere, _ = actions.preview_bulk(
        user=lead, filter={"label": "insult"}, action=Decision.Action.APPROVE
    )
    limited_job, _ = actions.preview_bulk(
        user=world.user, filter={"label": "insult"}, action=Decision.Action.APPROVE
    )
    for job, status in ((everywhere, 404), (limited_job, 200)):
        assert world.client.get(reverse("admin:moderation_job", args=[job.pk])).status_code == status
    with pytest.raises(ModerationError, match="no such job"):
        actions.cancel_bulk(job_id=everywhere.pk, user=world.user)
    everywhere.refresh_from_db()
    assert everywhere.status == "draft"
    assert limited_job.count == QueueItem.objects.filter(community=HERE, status="open", kind="review").count()


def rollups(version: ModelVersion) -> None:
    """Create the rollup of an hour in which the other community has a thousand times the counts."""
    hour = start_of_hour(timezone.now())
    for community, weight in ((HERE, 3), (MARKER, 3_000), (None, 3_003)):
        HourlyRollup.objects.create(
            hour=hour, version=version, source="api", overall=community is None, community=community or "",
            requests=weight, queued=weight, approved=weight, rejected=weight,
        )  # fmt: skip


@pytest.mark.parametrize("panel", PANELS)
def test_dashboard_and_downloads_hold_no_other_community(world: World, panel: str) -> None:
    rollups(ModelVersion.objects.get(alias=Alias.CHAMPION))
    for number in range(40):
        create_queue_item(f"insult=0.7 {MARKER} many {number}", community=MARKER)
    texts = []
    for community in ("", f"&community={MARKER}", "&community="):
        texts.append(world.client.get(f"/monitoring/{panel}.csv?window=24h{community}").content.decode())
        body = callback_body(f"?panel={panel}&window=24h{community}", "")
        content = world.client.post(CALLBACK, body, content_type="application/json").json()
        assert [option["label"] for option in content["response"]["community"]["options"]] == [HERE]
        texts.append(json.dumps(content["response"]["content"]))
    waiting = QueueItem.objects.filter(status="open").count()
    for text in texts:
        assert MARKER not in text
        # Whole numbers: digits of a time may be the same.
        assert not re.findall(r"(?<![\d.])3,?00[03](?!\d)", text)
        for number in (f"{waiting} items", f'"{waiting}"'):
            assert number not in text, number


class Blind:
    """A rejection with an open second review, and a reviewer with every permission who is no superuser."""

    def __init__(self, key: APIKey, make: Callable[..., User]) -> None:
        Policy.objects.update(second_review_share=1)
        self.first, self.second = make("first"), make("second", "lead")
        self.second.user_permissions.set(Permission.objects.all())
        User.objects.update(is_staff=True)
        self.second = User.objects.get(pk=self.second.pk)
        self.original = create_queue_item(
            "insult=0.7 first", api_key=key, callback_url="https://platform.example/hook"
        )
        self.sibling = create_queue_item("insult=0.8 another by the same author", api_key=key)
        held = actions.claim(item_id=self.original.pk, user=self.first)
        self.decision = actions.decide(
            item_id=held.pk,
            version=held.version,
            user=self.first,
            action=Decision.Action.REJECT,
            rule=held.default_rule(),
            note=MARKER,
        ).decision
        self.delivery = self.decision.deliveries.get()
        self.review = QueueItem.objects.get(kind="second")
        self.secret = create_api_key(actor=SYSTEM, name="second", acts_as=self.second)[1]

    def browser(self, user: User) -> Client:
        client = Client()
        client.force_login(user, backend=BACKEND)
        return client

    def shows_decision(self, user: User, secret: str = "") -> dict[str, Any]:
        """Return for each list, search, page and export whether it shows the user the first decision."""
        client, base = self.browser(user), "/admin/moderation/"
        item_page = reverse("admin:moderation_item", args=[self.original.pk])
        sibling = client.get(reverse("admin:moderation_item", args=[self.sibling.pk])).context
        seen: dict[str, Any] = {
            "list of decisions": client.get(f"{base}decision/").context["cl"].result_count
            if user.has_perm("moderation.view_decision")
            else 0,
            "page of the decision": client.get(f"{base}decision/{self.decision.pk}/change/").status_code
            == 200,
            "history of the decision": client.get(f"{base}decision/{self.decision.pk}/history/").status_code
            == 200,
            "list of decided items": client.get(f"{base}queueitem/?status=rejected")
            .context["cl"]
            .result_count,
            "item's page": client.get(item_page).status_code == 200,
            "author's decisions": len(sibling["author_decisions"]),
            "author's strikes": sibling["strikes"],
            "search": len(
                [
                    item
                    for item in client.get(reverse("admin:moderation_search"), {"q": "troll"}).context[
                        "items"
                    ]
                    if item.status != "open"
                ]
            ),
        }
        actions.release(item_id=self.sibling.pk, user=user)
        if user.has_perm("moderation.export_decision"):
            export = client.get(reverse("admin:moderation_decisions_csv")).getvalue().decode()
            statement = reverse("admin:moderation_statement", args=[self.decision.pk])
            seen |= {
                "export": len(export.splitlines()) - 1,
                "statement": client.get(statement).status_code == 200,
                "deliveries": client.get(f"{base}delivery/").context["cl"].result_count,
            }
        if secret:
            headers = {"Authorization": f"Api-Key {secret}"}
            queue = f"/api/v1/moderation/queue?status={self.original.__class__.Status.REJECTED}"
            seen |= {
                "API list": len(client.get(queue, headers=headers).json()["results"]),
                "API item": client.get(
                    f"/api/v1/moderation/queue/{self.original.pk}", headers=headers
                ).status_code
                == 200,
                "API strikes": client.get(
                    f"/api/v1/moderation/queue/{self.sibling.pk}", headers=headers
                ).json()["author_strikes"],
            }
        return seen


@pytest.fixture
def blind(model: Any, policy: Policy, platform_key: APIKey, person: Callable[..., User]) -> Blind:
    return Blind(platform_key, person)


def test_first_decision_is_hidden_until_the_second_review_is_decided(blind: Blind) -> None:
    seen = blind.shows_decision(blind.second, blind.secret)
    assert not any(seen.values()), seen
    card = blind.browser(blind.second).get(reverse("admin:moderation_item", args=[blind.review.pk]))
    assert MARKER not in card.content.decode()
    change = blind.browser(blind.second).get(f"/admin/moderation/queueitem/{blind.review.pk}/change/")
    for hidden in (
        "field-original",
        "field-excluded_reviewer",
        "field-score",
        "field-label",
        "field-severity",
    ):
        assert hidden not in change.content.decode()
    held = actions.claim(item_id=blind.review.pk, user=blind.second)
    actions.decide(
        item_id=held.pk, version=held.version, user=blind.second, action=Decision.Action.APPROVE, labels=[]
    )
    seen = blind.shows_decision(blind.second, blind.secret)
    assert all(seen.values()), seen


def test_superusers_see_everything(blind: Blind) -> None:
    seen = blind.shows_decision(User.objects.create_superuser("root"))
    assert all(seen.values()), seen


def test_first_reviewer_sees_own_decision(blind: Blind) -> None:
    seen = blind.shows_decision(blind.first)
    assert all(seen.values()), seen


def test_undo_ends_blind_review(blind: Blind) -> None:
    actions.undo(decision_id=blind.decision.pk, user=blind.first)
    assert QueueItem.objects.get(pk=blind.review.pk).status == "withdrawn"
    assert blind.browser(blind.second).get("/admin/moderation/decision/").context["cl"].result_count == 2


def test_appeal_ends_blind_review(blind: Blind) -> None:
    actions.claim(item_id=blind.review.pk, user=blind.second)
    actions.appeal(token=webhooks.appeal_token(blind.decision))
    review = QueueItem.objects.get(pk=blind.review.pk)
    assert (review.status, review.lease_by) == ("withdrawn", None)
    assert blind.browser(blind.second).get("/admin/moderation/decision/").context["cl"].result_count == 1
