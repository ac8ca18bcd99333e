"""The console in a real browser: by keys, by mouse, without a script, with hostile comments."""

import re
from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse
from playwright.sync_api import Page, expect

from apps.accounts.models import User
from apps.moderation import actions, webhooks
from apps.moderation.models import BulkJob, Decision, Delivery, Policy, QueueItem
from apps.moderation.roles import create_roles
from apps.moderation.tests.test_console import HOSTILE
from apps.registry.models import ModelVersion
from toxicmod.tests.browser import LOOKS, Visit, assert_sound, overflow

DESK = "/admin/moderation/queueitem/console/"
COMMENTS = (
    "You are a complete idiot and nobody wants you here",
    "shut up you stupid moron",
    "what a pathetic loser you are, go away",
    "this is such a stupid idea, you fool",
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def policy(champion: ModelVersion) -> Policy:
    """A policy that sends everything to a human and leaves nothing to chance."""
    create_roles()
    actions.install_default_policy()
    Policy.objects.update(audit_share=0, reject_audit_share=0, second_review_share=0)
    found = Policy.objects.active_for("")
    assert found is not None
    found.rules.exclude(label="").update(reject_from=None, review_from=0.0)
    return found


@pytest.fixture
def queue(policy: Policy) -> list[QueueItem]:
    """Four comments that wait."""
    return [queued(text, author_ref=f"author{number}") for number, text in enumerate(COMMENTS)]


def queued(text: str, **options: str) -> QueueItem:
    answer = actions.moderate(text=text, callback_url="https://platform.example/hook", **options)  # type: ignore[arg-type]
    assert answer.item is not None
    return answer.item


def moderator(name: str, role: str = "moderator") -> User:
    user = User.objects.create_user(name, password="correct horse battery", is_staff=True)
    user.all_communities = True
    user.save()
    user.groups.add(Group.objects.get(name=role))
    return user


def at_item(page: Page) -> QueueItem:
    """Return the item that the desk shows."""
    match = re.search(r"/item/(\d+)/", page.url)
    assert match, page.url
    return QueueItem.objects.get(pk=match[1])


def settled(page: Page) -> None:
    """Wait until the next item is in hand: the script has asked for it and for who is looking."""
    page.wait_for_load_state("networkidle")


def test_sign_in_reveal_decide_by_key_and_undo(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    moderator("ann")
    opened = visit("/admin/")
    page = opened.page
    page.fill("#id_username", "ann")
    page.fill("#id_password", "correct horse battery")
    page.press("#id_password", "Enter")
    page.wait_for_url("**/item/*/")
    settled(page)
    first = at_item(page)
    text = page.locator("#comment > .text")
    expect(text).to_be_hidden()
    page.keyboard.press("Space")
    expect(text).to_contain_text("you")
    assert page.locator("#comment mark").count() > 0

    page.keyboard.press("a")
    expect(page.locator("#last .verdict")).to_have_text("Approved")
    second = at_item(page)
    assert second.pk != first.pk
    expect(page.locator("#comment > .text")).to_be_hidden()
    settled(page)

    severe = page.locator("input[name=labels][value=severe_toxic]")
    was_ticked = severe.is_checked()
    page.keyboard.press("2")
    page.keyboard.press("r")
    assert Decision.objects.count() == 1
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator("#last .verdict")).to_have_text("Rejected")
    decision = Decision.objects.get(item=second)
    assert decision.labels
    assert decision.labels["severe_toxic"] is not was_ticked
    assert decision.rule
    assert decision.rule != second.rule()
    settled(page)

    page.keyboard.press("u")
    page.wait_for_url(f"**/item/{second.pk}/")
    expect(page.locator("#last .verdict")).to_have_text("Taken back")
    second.refresh_from_db()
    assert second.status == "open"
    assert Delivery.objects.get(decision=decision).status == "cancelled"
    settled(page)

    page.keyboard.press("e")
    expect(page.locator("#last .verdict")).to_have_text("Escalated")
    second.refresh_from_db()
    assert second.lane == "escalated"
    assert_sound(opened, "console-decided")


def test_keys_do_nothing_while_typing_or_switched_off(
    queue: list[QueueItem], visit: Callable[..., Visit]
) -> None:
    ann = moderator("ann")
    page = visit(DESK, user=ann).page
    settled(page)
    page.keyboard.press("n")
    page.keyboard.type("rare as")
    expect(page.locator("#note")).to_have_value("rare as")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+a")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("a")
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("/")
    page.keyboard.type("a")
    expect(page.locator("#search")).to_have_value("a")
    assert Decision.objects.count() == 0
    actions.set_preferences(user=ann, keys=False)
    page.goto(DESK)
    settled(page)
    page.keyboard.press("a")
    page.wait_for_timeout(300)
    assert Decision.objects.count() == 0


def test_next_previous_and_skip(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    page = visit(DESK, user=moderator("ann")).page
    settled(page)
    first = at_item(page)
    page.keyboard.press("j")
    page.wait_for_url(lambda url: f"/item/{first.pk}/" not in url)
    settled(page)
    page.keyboard.press("k")
    page.wait_for_url(f"**/item/{first.pk}/")
    settled(page)
    page.keyboard.press("s")
    expect(page.locator("#said")).to_contain_text("Skipped")
    assert at_item(page).pk != first.pk


def test_two_moderators_at_one_item(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    page = visit(DESK, user=moderator("ann")).page
    settled(page)
    item = at_item(page)
    lea = moderator("lea", "lead")
    other = visit(f"{DESK}item/{item.pk}/", user=lea).page
    expect(other.locator(".notice")).to_contain_text("ann holds this until")
    QueueItem.objects.filter(pk=item.pk).update(lease_by=None, lease_until=None, version=item.version + 1)
    taken = actions.claim(item_id=item.pk, user=lea)
    actions.decide(item_id=item.pk, version=taken.version, user=lea, action=Decision.Action.APPROVE)
    page.keyboard.press("a")
    expect(page.locator("#said")).to_contain_text("lea approved this at")
    page.locator("#said a").click()
    expect(page.locator(".notice")).to_contain_text("lea approved this at")


def test_without_a_script(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    opened = visit(DESK, user=moderator("ann"), javascript=False)
    page = opened.page
    first = at_item(page)
    page.locator("#comment > summary").click()
    expect(page.locator("#comment > .text")).to_be_visible()
    page.locator("button.reject").click()
    expect(page.locator("#last")).to_contain_text("Rejected")
    assert at_item(page).pk != first.pk
    page.locator("#undo button").click()
    expect(page.locator("#last")).to_contain_text("Taken back")
    assert at_item(page).pk == first.pk
    lea = moderator("lea", "lead")
    QueueItem.objects.filter(pk=first.pk).update(lease_by=None, lease_until=None, version=first.version + 9)
    taken = actions.claim(item_id=first.pk, user=lea)
    actions.decide(item_id=first.pk, version=taken.version, user=lea, action=Decision.Action.APPROVE)
    page.locator("button.reject").click()
    expect(page.locator("h1")).to_contain_text("Somebody was faster")
    page.go_back()
    expect(page.locator(".notice")).to_contain_text("lea approved this at")
    assert overflow(page) <= 0


def test_bulk_decide(policy: Policy, visit: Callable[..., Visit]) -> None:
    for number in range(25):
        queued(f"you are an idiot, number {number} of many {'very ' * number}", author_ref=f"a{number}")
    page = (opened := visit(f"{DESK}bulk/?label=toxic", user=moderator("lea", "lead"))).page
    all_of_them = actions.chosen({"label": "toxic"}).count()
    expect(page.locator(".lead")).to_contain_text(f"{all_of_them} items match")
    box = page.locator("#histogram").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.52, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.99, box["y"] + 60, steps=5)
    page.mouse.up()
    page.wait_for_url("**score_from=0.5&score_to=1**")
    count = actions.chosen({"label": "toxic", "score_from": 0.5}).count()
    assert count
    assert_sound(opened, "console-bulk-range")
    page.get_by_label("Reject", exact=True).check()
    page.get_by_role("button", name="Look at a sample").click()
    expect(page.locator("h2")).to_contain_text(f"A random sample of {min(count, 20)}")
    assert_sound(opened, "console-bulk-sample")
    page.fill("[name=typed]", str(count))
    page.get_by_role("button", name=re.compile("^Reject")).click()
    expect(page.locator("#job")).to_contain_text("Queued")
    actions.run_bulk(job_id=BulkJob.objects.get().pk)
    expect(page.locator("#job")).to_contain_text(f"{count} decided")
    assert Decision.objects.filter(action="reject").count() == count


def test_appeal(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    ann = moderator("ann")
    item = actions.claim(item_id=queue[0].pk, user=ann)
    decided = actions.decide(
        item_id=item.pk, version=item.version, user=ann, action=Decision.Action.REJECT, rule=item.rule()
    )
    appeal = actions.appeal(
        token=webhooks.appeal_token(decided.decision), text="It was a quotation <b>of him</b>."
    )
    opened = visit(f"{DESK}?view=appeal", user=moderator("lea", "lead"))
    page = opened.page
    settled(page)
    assert at_item(page).pk == appeal.item_id
    expect(page.locator(".appeal")).to_contain_text("It was a quotation <b>of him</b>.")
    page.keyboard.press("a")
    expect(page.locator("#last .verdict")).to_have_text("Approved")
    appeal.refresh_from_db()
    assert appeal.status == "overturned"
    assert_sound(opened, "console-appeal")


@pytest.mark.parametrize(("width", "theme"), LOOKS)
def test_hostile_comments_are_harmless(
    policy: Policy, visit: Callable[..., Visit], width: int, theme: str
) -> None:
    ann = moderator("ann")
    actions.set_preferences(user=ann, masked=False)
    for text in (
        HOSTILE,
        "\u202eidiot \u2066" + "W" * 20_000,
        "</p></article><style>*{display:none}</style>idiot",
    ):
        item = queued(text, author_ref="<img src=x onerror=alert(3)>" + "W" * 150)
        opened = visit(f"{DESK}item/{item.pk}/", user=ann, width=width, theme=theme)
        expect(opened.page.locator("#comment > .text")).to_be_visible()
        assert opened.page.locator("#comment :is(script, img, style)").count() == 0
        assert_sound(opened, "console-hostile")


@pytest.mark.parametrize(("width", "theme"), LOOKS)
def test_every_page_is_sound(
    queue: list[QueueItem], policy: Policy, visit: Callable[..., Visit], width: int, theme: str
) -> None:
    opened = visit(DESK, user=moderator("lea", "lead"), width=width, theme=theme)
    pages = {
        "desk": "", "none": "?view=urgent", "bulk": "bulk/", "policies": "policies/",
        "policy": f"policies/{policy.pk}/", "quality": "quality/", "webhooks": "webhooks/",
        "me": "me/", "search": "search/?q=x",
    }  # fmt: skip
    for name, path in pages.items():
        opened.page.goto(DESK + path)
        settled(opened.page)
        if name == "desk":
            opened.page.keyboard.press("Space")
        assert_sound(opened, f"console-{name}")


def test_the_simulator_answers_at_once(
    queue: list[QueueItem], policy: Policy, visit: Callable[..., Visit]
) -> None:
    page = visit(f"{DESK}policies/{policy.pk}/", user=moderator("lea", "lead")).page
    expect(page.locator("#figures")).to_contain_text("100.0 %")
    for slider in page.locator(".slider").all():
        slider.fill("1")
    expect(page.locator("#figures dd").first).to_have_text("100.0 %")
    page.get_by_role("button", name="Save as a draft").click()
    expect(page.locator("h1")).to_contain_text("default v2")
    page.fill("[name=reason]", "Quieter")
    page.get_by_role("button", name="Activate").click()
    expect(page.locator(".status-active")).to_be_visible()


def test_the_stock_admin_works_under_the_policy_of_content(
    queue: list[QueueItem], visit: Callable[..., Visit], client: Client
) -> None:
    lea = moderator("lea", "lead")
    for name in ("index", "moderation_queueitem_changelist", "moderation_decision_changelist"):
        opened = visit(reverse(f"admin:{name}"), user=lea)
        assert opened.errors == []
        assert "default-src 'self'" in client.get("/").headers["Content-Security-Policy"]
