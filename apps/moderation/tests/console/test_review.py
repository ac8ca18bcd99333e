"""Tests of `console.review` and `console.review_context`."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.accounts.models import User
from apps.moderation import actions, saved_views, webhooks
from apps.moderation.models import (
    Decision,
    Delivery,
    Policy,
    QueueItem,
    Skip,
)
from apps.registry.models import ModelVersion
from toxicmod.testing.console import FETCH, console_url, decision_form, staff_client
from toxicmod.testing.factories import HOSTILE_TEXT, create_queue_item, decide_item, restrict_to_communities


def test_review_redirects_to_the_first_item(item: QueueItem, ann: User, moderator_client: Client) -> None:
    severe = create_queue_item("threat=0.9 you")
    response = moderator_client.get(console_url("review"))
    assert response["Location"] == console_url("item", severe.pk)
    html = moderator_client.get(response["Location"]).content.decode()
    assert severe.priority_explanation in html
    assert "Your comment threatens somebody." in html
    for key in "ARESJU":
        assert key == "U" or f"<kbd>{key}</kbd>" in html


def test_review_keeps_the_saved_view(model: Any, policy: Policy, moderator_client: Client) -> None:
    first, second = (
        create_queue_item("threat=0.9 one", author_ref="a"),
        create_queue_item("threat=0.85 two", author_ref="b"),
    )
    create_queue_item("insult=0.7 three")
    at = moderator_client.get(console_url("review", view="urgent"))["Location"]
    assert at == console_url("item", first.pk, view="urgent")
    moderator_client.get(at)
    done = moderator_client.post(console_url("decide", first.pk), decision_form(first, view="urgent"))
    assert moderator_client.get(done["Location"])["Location"] == console_url("item", second.pk, view="urgent")
    moderator_client.post(console_url("decide", second.pk), decision_form(second, view="urgent"))
    assert (
        "No items in this view" in moderator_client.get(console_url("review", view="urgent")).content.decode()
    )


def test_review_explains_an_empty_view(
    model: Any, policy: Policy, ann: User, ben: User, lea: User, moderator_client: Client
) -> None:
    def get_page(view: str) -> str:
        html = moderator_client.get(console_url("review", view=view), follow=True).content.decode()
        return re.sub(r"\s+", " ", html)

    def count_text(view: str) -> str:
        cache.clear()
        row = next(row for row in saved_views.view_counts(ann) if row.view == view)
        return row.count_text

    assert "Queue empty" in get_page("all")
    Policy.objects.update(second_review_share=1)
    first = create_queue_item("insult=0.7 one of them")
    held = actions.claim(item_id=first.pk, user=ann)
    actions.decide(item_id=first.pk, version=held.version, user=ann, action=Decision.Action.APPROVE)
    Policy.objects.update(second_review_share=0)
    assert "1 item needs another moderator: you decided the comment first." in get_page("second")
    assert count_text("second") == "1, you decided it first"

    actions.claim(item_id=(other := create_queue_item("insult=0.65 two")).pk, user=ben)
    assert "1 item is being reviewed by ben; until " in get_page("normal")
    assert count_text("normal") == "1, reserved by others"
    actions.release(item_id=other.pk, user=ben)
    assert f"/item/{other.pk}/" in moderator_client.get(console_url("review", view="normal"))["Location"]
    assert count_text("normal") == "1"

    actions.skip(item_id=other.pk, user=ann)
    page = get_page("normal")
    assert "1 item was skipped by you." in page
    link = f'<a href="{console_url("item", other.pk, view="normal")}">{other.pk}</a>'
    assert f"To decide it yourself, open {link}." in page
    held = actions.claim(item_id=other.pk, user=ben)
    actions.decide(item_id=other.pk, version=held.version, user=ben, action=Decision.Action.ESCALATE)
    assert "1 item waits for a lead" in get_page("escalated")
    assert count_text("escalated") == "1, leads only"
    assert "No items in this view" in get_page("normal")

    restricted = create_queue_item("threat=0.9 three")
    Policy.objects.update(allowed_groups=["lead"])
    assert "1 item is restricted by policy to: lead." in get_page("urgent")
    assert count_text("urgent") == "1, restricted by policy"
    assert staff_client(lea).get(console_url("review", view="urgent"))["Location"] == console_url(
        "item", restricted.pk, view="urgent"
    )
    page = get_page("all")
    for reason in ("needs another moderator", "waits for a lead", "restricted by policy"):
        assert reason in page


def test_review_suggests_a_break(model: Any, policy: Policy, ann: User, moderator_client: Client) -> None:
    actions.set_preferences(user=ann, exposure_limit=1)
    item = create_queue_item("threat=0.9 x")
    moderator_client.get(console_url("item", item.pk))
    moderator_client.post(console_url("decide", item.pk), decision_form(item))
    assert "Time for a break?" in moderator_client.get(console_url("review")).content.decode()


def test_review_requires_staff(item: QueueItem, ann: User) -> None:
    client = Client()
    client.force_login(ann, backend="django.contrib.auth.backends.ModelBackend")
    assert "/login/" in client.get(console_url("review"))["Location"]


def test_sign_in_redirects_moderators_to_the_review_page(
    item: QueueItem, ann: User, moderator_client: Client
) -> None:
    ann.set_password("correct horse battery")
    ann.save()
    form = {"username": "ann", "password": "correct horse battery", "next": reverse("admin:index")}
    assert Client().post(reverse("admin:login"), form)["Location"] == console_url("review")
    form |= {"next": console_url("profile")}
    assert Client().post(reverse("admin:login"), form)["Location"] == console_url("profile")
    moderator_client.force_login(ann, backend="django.contrib.auth.backends.ModelBackend")
    assert console_url("review") in moderator_client.get(reverse("admin:index")).content.decode()


def test_item_does_not_lease(
    model: Any, policy: Policy, ann: User, ben: User, moderator_client: Client
) -> None:
    urgent = create_queue_item("threat=0.9 one")
    normal = [create_queue_item(f"insult=0.7 number {number} {'x' * number}") for number in range(4)]
    for view in ("all", "urgent", "normal", "uncertain", "mine", "overdue"):
        moderator_client.get(console_url("review", view=view), follow=True)
    for item in (urgent, *normal):
        moderator_client.get(console_url("item", item.pk))
    assert not QueueItem.objects.exclude(lease_by=None).exists()
    assert staff_client(ben).get(console_url("review"))["Location"] == console_url("item", urgent.pk)


def test_item_is_read_only_for_a_viewer(item: QueueItem, person: Callable[..., User]) -> None:
    viewer = staff_client(person("val", "viewer"))
    assert viewer.get(console_url("review"))["Location"] == console_url("item", item.pk)
    html = viewer.get(console_url("item", item.pk)).content.decode()
    assert "View only.</strong> You do not have permission to decide items." in html
    assert 'id="decide"' not in html
    assert viewer.post(console_url("decide", item.pk), decision_form(item)).status_code == 403
    for name in ("bulk", "webhooks", "decisions_csv"):
        response = viewer.get(console_url(name))
        assert response.status_code == 403
        assert "You do not have permission to " in response.content.decode()
        assert "moderation." not in response.content.decode()


def test_item_of_another_community_is_not_found(
    model: Any, policy: Policy, ann: User, moderator_client: Client
) -> None:
    other = create_queue_item("insult=0.7", community="other")
    restrict_to_communities(ann, "mine")
    response = moderator_client.get(console_url("item", other.pk))
    assert (response.status_code, "Go to the console" in response.text) == (404, True)
    assert moderator_client.post(console_url("decide", other.pk), decision_form(other)).status_code == 404
    assert moderator_client.get(console_url("item", 10_000)).status_code in (404, 422)


def test_item_hides_scores_and_decisions_in_a_blind_review(
    item: QueueItem, ann: User, ben: User, moderator_client: Client
) -> None:
    Policy.objects.update(second_review_share=1.0)
    held = actions.claim(item_id=item.pk, user=ben)
    rule = held.default_rule()
    actions.decide(item_id=held.pk, version=held.version, user=ben, action=Decision.Action.REJECT, rule=rule)
    second = QueueItem.objects.get(kind="second")

    def get_page(item: QueueItem) -> str:
        # Times and the form's token may contain a forbidden text by chance.
        html = moderator_client.get(console_url("item", item.pk)).content.decode()
        return re.sub(r'(datetime|data-until|value)="[^"]*"', "", html)

    hidden = ("<mark>", 'class="gauge"', "<b>ben</b>", "troll", "70.0%")
    for text in hidden:
        assert text not in get_page(second), text
    assert "you fool" in get_page(second)
    # If the item is not blind, the page shows all of them.
    QueueItem.objects.filter(pk=second.pk).update(kind="review")
    for text in hidden:
        assert text in get_page(second), text
    QueueItem.objects.filter(pk=second.pk).update(kind="second")
    unlabelled = moderator_client.post(console_url("decide", second.pk), decision_form(second, "reject"))
    assert unlabelled.status_code == 422
    assert "tick the labels that apply" in unlabelled.content.decode()
    both = decision_form(second, "reject", labels=["insult"], none="on")
    response = moderator_client.post(console_url("decide", second.pk), both)
    assert response.status_code == 422
    assert re.search(rf'name="rule" value="{both["rule"]}"[^>]* checked', response.text)
    assert (
        moderator_client.post(
            console_url("decide", second.pk), decision_form(second, "reject", none="on")
        ).status_code
        == 302
    )
    assert set((second.decisions.get().labels or {}).values()) == {False}


def test_item_shows_an_appeal(item: QueueItem, ann: User, lead_client: Client) -> None:
    held = actions.claim(item_id=item.pk, user=ann)
    result = actions.decide(
        item_id=held.pk,
        version=held.version,
        user=ann,
        action=Decision.Action.REJECT,
        rule=held.default_rule(),
    )
    appeal = actions.appeal(token=webhooks.appeal_token(result.decision), text="<b>It was a quote</b>")
    html = lead_client.get(console_url("item", appeal.item_id)).content.decode()
    assert "&lt;b&gt;It was a quote" in html
    assert "Approve: overturn" in html
    assert f"Reject the appeal of item {appeal.item_id}: choose a reason" in html
    lead_client.post(console_url("decide", appeal.item_id), decision_form(appeal.item))
    appeal.refresh_from_db()
    assert appeal.status == "overturned"


def test_item_escapes_hostile_text(model: Any, policy: Policy, moderator_client: Client) -> None:
    item = create_queue_item(HOSTILE_TEXT, context={"<b>parent</b>": "<i>x</i>"}, author_ref='"><script>')
    response = moderator_client.get(console_url("item", item.pk))
    html = response.content.decode()
    for danger in ("<script>alert", "<img", "<b>parent", "<i>x", '"><script>', "\u202e"):
        assert danger not in html, danger
    assert "U+202E" in html
    assert "{{" in html
    redirect = moderator_client.post(console_url("decide", item.pk), decision_form(item))
    assert "script" not in redirect["Location"]


@pytest.mark.parametrize(
    ("action", "words"), [("approve", "approved"), ("reject", "rejected: Insults"), ("escalate", "escalated")]
)
def test_item_history_names_the_moderator(
    moderator_client: Client, item: QueueItem, lea: User, action: str, words: str
) -> None:
    held = actions.claim(item_id=item.pk, user=lea)
    rule = held.policy.rules.get(label="insult") if action == "reject" else None
    actions.decide(item_id=item.pk, version=held.version, user=lea, action=Decision.Action(action), rule=rule)
    html = moderator_client.get(reverse("admin:moderation_item", args=[item.pk])).content.decode()
    assert f"<b>lea</b> {words}" in html
    assert "rejectd" not in html


def test_next_item_and_decide_return_json(item: QueueItem, ann: User, moderator_client: Client) -> None:
    other = create_queue_item("insult=0.65 and you")
    data = {"tab": "one", "exclude": str(item.pk)}
    prefetched = moderator_client.post(console_url("next"), data, headers=FETCH).json()
    assert (prefetched["item"], prefetched["url"]) == (other.pk, console_url("item", other.pk))
    assert f'name="version" value="{other.version}"' in prefetched["html"]
    assert console_url("item", item.pk) not in prefetched["html"]  # nor in the list of the next items
    page = moderator_client.get(prefetched["url"]).content.decode()
    assert f"<title>{prefetched['title']}</title>" in page
    other.refresh_from_db()
    assert other.lease_by is None
    response = moderator_client.post(
        console_url("decide", item.pk), decision_form(item), headers=FETCH
    ).json()
    decision = Decision.objects.get()
    assert response["undo_url"] == console_url("undo", decision.pk)
    assert response["message"] == f"Approved item {item.pk}."
    assert "Approved" in response["last_decision"]
    undone = moderator_client.post(response["undo_url"], headers=FETCH).json()
    assert undone["message"] == f"Undone: approval of item {item.pk}."
    assert undone["url"] == console_url("item", item.pk)
    assert moderator_client.post(response["undo_url"], headers=FETCH).status_code == 409
    data["exclude"] = f"{item.pk},{other.pk}"
    empty = moderator_client.post(console_url("next"), data, headers=FETCH).json()
    assert (empty["item"], empty["url"]) == (None, console_url("review"))
    assert empty["title"] == "Queue | toxicmod"
    assert (
        moderator_client.post(
            console_url("next"), {"tab": "one", "exclude": "1;2"}, headers=FETCH
        ).status_code
        == 422
    )


def test_next_item_offers_an_item_to_one_tab(
    model: Any, policy: Policy, ann: User, ben: User, moderator_client: Client
) -> None:
    items = [create_queue_item(f"insult=0.7 number {number} {'x' * number}") for number in range(3)]
    other = staff_client(ben)
    offered = [
        client.post(console_url("next"), {"tab": tab}, headers=FETCH).json()["item"]
        for client, tab in ((moderator_client, "1"), (moderator_client, "2"), (other, "3"), (other, "4"))
    ]
    assert sorted(offered[:3]) == sorted(item.pk for item in items)
    assert offered[3] is None
    assert other.get(console_url("review"))["Location"] == console_url("item", offered[0])
    moderator_client.post(console_url("release", offered[1]), {"tab": "2"})
    assert other.post(console_url("next"), {"tab": "4"}, headers=FETCH).json()["item"] == offered[1]


def test_release_ends_the_lease_of_its_version(item: QueueItem, ann: User, moderator_client: Client) -> None:
    moderator_client.get(console_url("item", item.pk))
    lease = moderator_client.post(console_url("claim", item.pk), headers=FETCH).json()
    item.refresh_from_db()
    assert (item.lease_by, item.version) == (ann, lease["version"])
    moderator_client.post(console_url("release", item.pk), {"tab": "t", "version": lease["version"] - 1})
    item.refresh_from_db()
    assert item.lease_by == ann  # an older page does not end the lease of a newer one
    assert (
        moderator_client.post(
            console_url("release", item.pk), {"tab": "t", "version": lease["version"]}
        ).status_code
        == 204
    )
    item.refresh_from_db()
    assert item.lease_by is None
    assert moderator_client.post(console_url("release", item.pk), {"version": "x"}).status_code == 422


def test_counter_of_reserved_items_follows_forms(
    item: QueueItem, ann: User, moderator_client: Client
) -> None:
    """Without JavaScript each action loads a page, which shows the sizes of the views."""

    def count() -> int:
        page = moderator_client.get(console_url("item", item.pk))
        return next(row.count for row in page.context["views"] if row.view == "mine")

    assert count() == 0
    for name, expected in (("claim", 1), ("release_and_next", 0)):
        moderator_client.post(console_url(name, item.pk))
        assert count() == expected, name


def test_presence_returns_other_viewers(
    item: QueueItem, ann: User, lead_client: Client, moderator_client: Client
) -> None:
    moderator_client.post(console_url("presence", item.pk), {"tab": "a", "is_first": "1"}, headers=FETCH)
    viewing = lead_client.post(console_url("presence", item.pk), {"tab": "b"}, headers=FETCH).json()
    assert viewing["other_viewers"] == ["ann"]
    assert viewing["lease_until"] is None
    moderator_client.post(console_url("claim", item.pk), headers=FETCH)
    reviewing = moderator_client.post(console_url("presence", item.pk), {"tab": "a"}, headers=FETCH).json()
    assert reviewing["other_viewers"] == ["lea"]
    assert reviewing["lease_until"]


def test_decide_undo_and_decide_again(item: QueueItem, ann: User, moderator_client: Client) -> None:
    moderator_client.get(console_url("item", item.pk))
    response = moderator_client.post(
        console_url("decide", item.pk), decision_form(item, "reject", note="rude")
    )
    assert (response.status_code, response["Location"]) == (302, console_url("review"))
    decision = Decision.objects.get(by=ann)
    assert (decision.action, decision.note, decision.seconds) == ("reject", "rude", 3.5)
    assert decision.rule
    assert decision.rule.label == "insult"
    assert decision.corrected_mask is None
    html = moderator_client.get(console_url("review")).content.decode()
    assert "Rejected" in html
    assert console_url("undo", decision.pk) in html
    back = moderator_client.post(console_url("undo", decision.pk))
    assert back["Location"] == console_url("item", item.pk)
    assert Delivery.objects.get(decision=decision).status == "cancelled"
    html = moderator_client.get(back["Location"]).content.decode()
    assert "Undone" in html
    assert f'rejection of\n  <a href="{console_url("item", item.pk)}"' in html
    assert "undid the decision of ann" in html
    assert moderator_client.post(console_url("decide", item.pk), decision_form(item)).status_code == 302
    item.refresh_from_db()
    assert item.status == "approved"


def test_history_offers_undo_to_the_moderator_who_decided_and_to_leads(
    item: QueueItem, ann: User, person: Callable[..., User], lead_client: Client, moderator_client: Client
) -> None:
    undo = console_url("undo", decide_item(item, ann).decision.pk)
    other_client = Client()
    other_client.force_login(person("bob", "moderator"))
    shows = [
        undo in client.get(console_url("item", item.pk)).content.decode()
        for client in (moderator_client, lead_client, other_client)
    ]
    assert shows == [True, True, False]


def test_decide_stores_only_ticked_labels(model: Any, policy: Policy, moderator_client: Client) -> None:
    items = [create_queue_item(f"insult=0.7 number {number} {'x' * number}") for number in range(5)]
    forms = [{}, {"labels": ["insult"]}, {"labels": ["insult", "threat"]}, {}, {"labels": ["obscene"]}]
    chosen_actions = ["reject", "reject", "approve", "approve", "escalate"]
    for item, action, fields in zip(items, chosen_actions, forms, strict=True):
        html = moderator_client.get(console_url("item", item.pk)).content.decode()
        assert not re.search(r"<input[^>]* checked", html)
        assert (
            moderator_client.post(
                console_url("decide", item.pk), decision_form(item, action, **fields)
            ).status_code
            == 302
        )
    stored = [Decision.objects.get(item=item).labels for item in items]
    ticked = [labels and [label for label, flag in labels.items() if flag] for labels in stored]
    assert ticked == [None, ["insult"], ["threat", "insult"], None, None]


def test_decide_after_another_moderator(
    item: QueueItem, ann: User, ben: User, moderator_client: Client
) -> None:
    moderator_client.post(console_url("claim", item.pk))
    form = decision_form(item)
    QueueItem.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    actions.expire_leases()
    leased = actions.claim(item_id=item.pk, user=ben)
    early = moderator_client.post(console_url("decide", item.pk), form)
    assert early.status_code == 409
    assert "ben is reviewing this until" in early.content.decode()
    actions.decide(item_id=item.pk, version=leased.version, user=ben, action=Decision.Action.APPROVE)
    late = moderator_client.post(console_url("decide", item.pk), decision_form(item, "reject"))
    assert late.status_code == 409
    assert re.search(r"Already handled by ben: approved \d+ s ago", late.content.decode())
    assert moderator_client.post(console_url("decide", item.pk), form, headers=FETCH).status_code == 409
    assert (
        "Already handled by ben: approved"
        in moderator_client.get(console_url("item", item.pk)).content.decode()
    )
    assert Decision.objects.filter(by=ann).count() == 0


def test_decide_twice_explains_the_conflict(item: QueueItem, moderator_client: Client) -> None:
    form = decision_form(item)
    assert moderator_client.post(console_url("decide", item.pk), form).status_code == 302
    Decision._base_manager.update(created_at=timezone.now() - timedelta(seconds=3))
    for action in ("approve", "reject", "escalate"):
        again = moderator_client.post(console_url("decide", item.pk), decision_form(item, action))
        assert again.status_code == 409
        assert re.search(r"You approved this \d+ s ago \(at ", again.content.decode())
        script = moderator_client.post(
            console_url("decide", item.pk), decision_form(item, action), headers=FETCH
        )
        assert re.match(r"You approved this \d+ s ago", script.json()["message"])
    assert "You approved this" in moderator_client.post(console_url("claim", item.pk)).content.decode()
    assert (
        "You approved this"
        in moderator_client.post(console_url("presence", item.pk), headers=FETCH).json()["problem"]
    )
    assert Decision.objects.count() == 1


def test_decide_requires_a_reason_for_a_rejection(item: QueueItem, moderator_client: Client) -> None:
    moderator_client.get(console_url("item", item.pk))
    form = decision_form(item, "reject", rule="", note="a long note", labels=["insult"])
    response = moderator_client.post(console_url("decide", item.pk), form)
    assert response.status_code == 422
    assert 'role="alert">Choose a reason of the policy' in response.text
    assert ">a long note</textarea>" in response.text
    ticked = re.findall(r'name="labels" value="(\w+)"[^>]* checked', response.text)
    assert ticked == ["insult"]
    assert (
        moderator_client.post(
            console_url("decide", item.pk), decision_form(item, "reject", rule="999")
        ).status_code
        == 422
    )
    assert moderator_client.post(console_url("decide", item.pk), {"action": "dance"}).status_code == 422


def test_item_links_a_viewer_to_the_following_item(
    model: Any, policy: Policy, person: Callable[..., User]
) -> None:
    items = [create_queue_item(f"threat=0.9 number {number}", author_ref="a") for number in range(3)]
    QueueItem.objects.update(priority=1.0)  # equal: the newest comes first
    viewer = staff_client(person("val", "viewer"))
    url = viewer.get(console_url("review", view="urgent"))["Location"]
    for item in reversed(items):
        assert url == console_url("item", item.pk, view="urgent")
        links = re.findall(r'class="next-link" href="([^"]+)"', viewer.get(url).content.decode())
        url = links[0]
    assert url == console_url("review", view="urgent")


def test_release_and_next_passes_items_of_equal_priority(
    model: Any, policy: Policy, moderator_client: Client
) -> None:
    items = [create_queue_item(f"threat=0.9 number {number}", author_ref="a") for number in range(3)]
    QueueItem.objects.update(priority=1.0)
    for item, following in ((items[2], items[1]), (items[1], items[0])):
        answer = moderator_client.post(console_url("release_and_next", item.pk))
        assert answer["Location"] == console_url("item", following.pk)


@pytest.mark.parametrize("action", ["approve", "reject"])
def test_undo_restores_the_labels_and_the_note_of_the_own_decision(
    item: QueueItem, moderator_client: Client, lead_client: Client, action: str
) -> None:
    def form(client: Client) -> tuple[list[str], str]:
        html = client.get(console_url("item", item.pk)).content.decode()
        ticked = re.findall(r'name="labels" value="(\w+)"[^>]* checked', html)
        return ticked, re.findall(r"<textarea[^>]*>(.*)</textarea>", html)[0]

    fields = {"labels": ["obscene", "insult"], "note": "See <thread>"}
    for client in (lead_client, moderator_client):
        client.post(console_url("decide", item.pk), decision_form(item, action, **fields))
        client.post(console_url("undo", Decision.objects.latest("pk").pk))
        assert form(client) == (["obscene", "insult"], "See &lt;thread&gt;")
        actions.release(item_id=item.pk, user=User.objects.get(pk=client.session["_auth_user_id"]))
    assert form(lead_client) == ([], "")


def test_undo_restores_none_of_these_in_a_blind_review(
    item: QueueItem, ben: User, moderator_client: Client
) -> None:
    Policy.objects.update(second_review_share=1.0)
    decide_item(item, ben)
    second = QueueItem.objects.get(kind="second")
    moderator_client.post(console_url("decide", second.pk), decision_form(second, "reject", none="on"))
    moderator_client.post(console_url("undo", Decision.objects.latest("pk").pk))
    html = moderator_client.get(console_url("item", second.pk)).content.decode()
    assert re.search(r'name="none"[^>]* checked', html)
    assert 'name="labels" value="insult" form="decide" aria-keyshortcuts="5">' in html


def test_decide_late_does_not_reveal_the_first_decision(
    item: QueueItem, ann: User, ben: User, moderator_client: Client
) -> None:
    Policy.objects.update(second_review_share=1.0)
    held = actions.claim(item_id=item.pk, user=ben)
    actions.decide(
        item_id=held.pk,
        version=held.version,
        user=ben,
        action=Decision.Action.REJECT,
        rule=held.default_rule(),
    )
    for response in (
        moderator_client.post(console_url("decide", item.pk), decision_form(item)),
        moderator_client.get(console_url("item", item.pk)),
    ):
        page = response.content.decode()
        assert response.status_code == 409
        assert "Another moderator has decided this item meanwhile." in page
        is_change = response.wsgi_request.method == "POST"
        assert ("Your change was not saved" in page) == is_change
        assert ("This item is not available" in page) != is_change
        assert "ben" not in page
    QueueItem.objects.filter(pk=item.pk).update(community="elsewhere")
    ann.all_communities = False
    ann.save()
    assert moderator_client.get(console_url("item", item.pk)).status_code == 404


def test_decide_escalates_to_another_lead(
    item: QueueItem, lea: User, person: Callable[..., User], lead_client: Client
) -> None:
    lead_client.post(console_url("decide", item.pk), decision_form(item, "escalate"))
    for view in ("all", "escalated"):
        html = re.sub(r"\s+", " ", lead_client.get(console_url("review", view=view)).content.decode())
        assert "1 item was escalated by you" in html
        assert (f'href="{console_url("item", item.pk)}?view=escalated"' in html) == (view == "escalated")
        assert (
            lead_client.post(console_url("next"), {"tab": "t", "view": view}, headers=FETCH).json()["item"]
            is None
        )
    assert actions.claim_next(user=lea) is None
    html = lead_client.get(console_url("item", item.pk)).content.decode()
    assert "Escalated by you" in html
    assert "by a colleague" not in html
    leo = staff_client(person("leo", "lead"))
    assert leo.get(console_url("review"))["Location"] == console_url("item", item.pk)
    assert "Escalated by a colleague" in leo.get(console_url("item", item.pk)).content.decode()
    escalation = Decision.objects.get()
    lead_client.post(console_url("undo", escalation.pk))
    assert lead_client.get(console_url("review"))["Location"] == console_url("item", item.pk)
    lead_client.post(console_url("decide", item.pk), decision_form(item, "escalate"))
    leo.post(console_url("decide", item.pk), decision_form(item, "escalate"))
    assert lead_client.get(console_url("review"))["Location"] == console_url("item", item.pk)
    leo.post(console_url("claim", item.pk))
    assert leo.get(console_url("review", view="mine"))["Location"] == console_url(
        "item", item.pk, view="mine"
    )
    assert leo.post(console_url("decide", item.pk), decision_form(item)).status_code == 302


def test_skip_of_an_item_of_another_community_is_not_found(
    model: Any, policy: Policy, ann: User, moderator_client: Client
) -> None:
    restrict_to_communities(ann, "news")
    other = create_queue_item("insult=0.7", community="games")
    for pk in (other.pk, 999_999):
        for headers in ({}, FETCH):
            response = moderator_client.post(console_url("skip", pk), headers=headers)
            assert response.status_code == 404
            assert "access" not in response.content.decode()
            if headers:
                assert "does not exist, or it belongs to a community" in response.json()["message"]
    assert not Skip.objects.exists()


def test_skip_and_release_and_next(item: QueueItem, ann: User, moderator_client: Client) -> None:
    other = create_queue_item("insult=0.75 and you")
    moderator_client.get(console_url("item", item.pk))
    response = moderator_client.post(console_url("release_and_next", item.pk))
    assert response["Location"] == console_url("item", other.pk)
    moderator_client.get(response["Location"])
    assert moderator_client.post(console_url("skip", other.pk), {"note": "not my language"})[
        "Location"
    ] == console_url("review")
    assert Skip.objects.get().reason == "not my language"
    assert moderator_client.get(console_url("review"))["Location"] == console_url("item", item.pk)


def test_similar_items_are_decided_and_undone_together(
    model: Any, policy: Policy, ben: User, lea: User, moderator_client: Client
) -> None:
    items = [create_queue_item("insult=0.7 buy my fine rings today", author_ref=f"a{n}") for n in range(4)]
    first = items[0]
    assert "Show 3 similar comments" in moderator_client.get(console_url("item", first.pk)).content.decode()
    similar = moderator_client.get(console_url("similar", first.pk), headers=FETCH).json()
    ids = ",".join(str(item.pk) for item in items[1:])
    assert similar["count"] == 3
    assert "these 3 similar comments" in similar["html"]
    assert similar["html"].count("buy my fine rings today") == 3
    assert f'name="similar" form="decide" value="{ids}"' in similar["html"]
    assert (
        f'value="{ids}"' in moderator_client.get(console_url("item", first.pk, similar="on")).content.decode()
    )
    create_queue_item("insult=0.7 buy my fine rings today", author_ref="the page did not show this item")
    held = actions.claim(item_id=items[3].pk, user=ben)
    response = moderator_client.post(
        console_url("decide", first.pk), decision_form(first, similar=ids), headers=FETCH
    ).json()
    assert response["message"].startswith(f"Approved item {first.pk} and 2 similar.")
    assert (
        f"Not applied to item {items[3].pk}: reserved or decided by another moderator." in response["notice"]
    )
    assert QueueItem.objects.filter(status="approved").count() == 3
    actions.release(item_id=held.pk, user=ben)
    assert "and 2 similar" in moderator_client.get(console_url("review"), follow=True).content.decode()
    decisions = {decision.item_id: decision for decision in Decision.objects.all()}
    actions.undo(decision_id=decisions[items[1].pk].pk, user=lea)  # the lead leases this one
    undone = moderator_client.post(console_url("undo", decisions[first.pk].pk), headers=FETCH).json()
    assert undone["message"] == f"Undone: approval of item {first.pk} and of 1 similar."
    assert QueueItem.objects.open().count() == 5
    assert set(QueueItem.objects.filter(lease_by__isnull=False)) == {first, items[1]}


def test_escalate_and_skip_leave_out_similar_items(
    model: Any, policy: Policy, moderator_client: Client
) -> None:
    """The browser sends the similar comments that are shown with every action."""
    items = [create_queue_item("insult=0.7 buy my fine rings today", author_ref=f"a{n}") for n in range(3)]
    for item, view, message in zip(items, ("decide", "skip"), ("Escalated", "Skipped"), strict=False):
        ids = ",".join(str(other.pk) for other in items if other != item)
        form = decision_form(item, "escalate", similar=ids)
        response = moderator_client.post(console_url(view, item.pk), form, headers=FETCH)
        assert response.status_code == 200, response.content
        assert response.json()["message"] == f"{message} item {item.pk}."
        assert not response.json().get("notice")
    assert Decision.objects.human().get().item == items[0]
    assert QueueItem.objects.get(queue="escalated") == items[0]
    assert Skip.objects.get().item == items[1]


def test_last_decision_counts_similar_items(model: Any, policy: Policy, moderator_client: Client) -> None:
    items = [create_queue_item("insult=0.7 buy my fine rings today", author_ref=f"a{n}") for n in range(4)]
    first, *similar = items
    ids = ",".join(str(item.pk) for item in similar)
    moderator_client.post(console_url("decide", first.pk), decision_form(first, similar=ids))

    def last_decision() -> str:
        html = moderator_client.get(console_url("item", first.pk)).content.decode()
        return re.sub(r"<[^>]*>|\s+", " ", html.split('id="last-decision">')[1].split("</div>")[0])

    def undo(item: QueueItem) -> str:
        decision = Decision.objects.effective().get(item=item)
        return moderator_client.post(console_url("undo", decision.pk), headers=FETCH).json()["message"]

    assert undo(similar[0]) == f"Undone: approval of item {similar[0].pk}."
    assert re.search(rf"Undone\s+: approval of\s+item {similar[0].pk}\s+·", last_decision())
    assert undo(first) == f"Undone: approval of item {first.pk} and of 2 similar."
    assert re.search(rf"Undone\s+: approval of\s+item {first.pk}\s+and 2 similar", last_decision())


def test_last_decision_ignores_bulk_jobs(model: Any, policy: Policy, lea: User, lead_client: Client) -> None:
    for n in range(3):
        create_queue_item(f"insult=0.7 number {n} {'x' * n}", author_ref=f"a{n}")
    job, _ = actions.preview_bulk(user=lea, filter={"label": "insult"}, action=Decision.Action.APPROVE)
    actions.start_bulk(job_id=job.pk, user=lea, typed_count=3)
    actions.run_bulk(job_id=job.pk)
    actions.undo_bulk(job_id=job.pk, user=lea, typed_count=3)
    actions.run_bulk(job_id=job.pk)
    assert QueueItem.objects.open().count() == 3
    assert 'class="last-decision"' not in lead_client.get(console_url("review"), follow=True).content.decode()


def test_undo_names_decisions_that_cannot_be_undone(
    model: Any, policy: Policy, ben: User, lea: User, moderator_client: Client
) -> None:
    first, other = (create_queue_item("insult=0.7 buy my fine rings today", author_ref=name) for name in "ab")
    moderator_client.post(
        console_url("decide", first.pk), decision_form(first, "reject", similar=str(other.pk))
    )
    applied = Decision.objects.get(item=other)
    actions.appeal(token=webhooks.appeal_token(applied), text="No.")
    html = moderator_client.post(
        console_url("undo", Decision.objects.get(item=first).pk), follow=True
    ).content.decode()
    assert (
        f"Undone: rejection of item {first.pk}. 1 could not be undone. Item {other.pk}: It is too late"
        in html
    )


def test_undo_explains_a_conflict(
    item: QueueItem, ann: User, ben: User, lea: User, moderator_client: Client
) -> None:
    def post_undo(client: Client, pk: int) -> tuple[int, str]:
        response = client.post(console_url("undo", pk), headers=FETCH)
        return response.status_code, response.json()["message"]

    moderator_client.post(console_url("decide", item.pk), decision_form(item))
    first = Decision.objects.get()
    assert post_undo(staff_client(ben), first.pk) == (403, "Only ann or a lead can undo this decision.")
    actions.undo(decision_id=first.pk, user=lea)
    status, text = post_undo(moderator_client, first.pk)
    assert status == 409
    assert re.fullmatch(r"lea undid this decision \d+ s ago\.", text)
    held = actions.claim(item_id=item.pk, user=lea)
    actions.decide(item_id=item.pk, version=held.version, user=lea, action=Decision.Action.APPROVE)
    assert post_undo(moderator_client, first.pk)[0] == 409


def test_views_counts_what_the_user_sees_after_a_claim(
    item: QueueItem, policy: Policy, ann: User, moderator_client: Client
) -> None:
    create_queue_item("insult=0.7 other", community="elsewhere")

    def counts(view: str = "all") -> list[str]:
        html = moderator_client.get(console_url("views", view=view)).json()["html"]
        assert f'view={view}" aria-current="true"' in html
        return re.findall(r'class="count"[^>]*>([^<]+)<', html)[:2]

    restrict_to_communities(ann, item.community)
    assert counts() == ["0", "1"]
    actions.claim(item_id=item.pk, user=ann)
    assert counts("mine") == ["1", "1"], "the cached counts are outdated"


def test_console_names_a_language_that_is_not_scored(
    lead_client: Client, model: ModelVersion, policy: Policy
) -> None:
    Policy.objects.update(review_other_languages=True)
    item = create_queue_item("ขอบคุณมากครับ สำหรับความช่วยเหลือทั้งหมด threat=0.04")
    html = lead_client.get(console_url("item", item.pk)).text
    assert "Review: language not scored" in html
    assert '<span class="chip explanation">Language not scored</span>' in html
    assert "language not scored</span>" in html.split('id="next-title"')[1]
    assert "do not rely on the bars" in html
    assert "ossibly threat" not in html
    assert "<mark>" not in html
    assert lead_client.get(console_url("search", q=str(item.submission_id))).status_code == 302
