"""The console in headless Chromium: by keyboard, by mouse, without JavaScript, with hostile comments."""

import re
from collections import Counter
from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from playwright.sync_api import Page, expect

from apps.accounts.models import User
from apps.moderation import actions, webhooks
from apps.moderation.models import BulkJob, Decision, Delivery, Policy, QueueItem, Skip
from apps.moderation.roles import create_roles
from apps.registry.models import ModelVersion
from toxicmod.testing.browser import APPEARANCES, Visit, assert_sound, overflow
from toxicmod.testing.factories import HOSTILE_TEXT

CONSOLE = "/admin/moderation/queueitem/console/"
MIN_VIEW_TIME = 500  # milliseconds after an item is shown, during which the page ignores decisions on it
COMMENTS = (
    "You are a complete idiot and nobody wants you here",
    "shut up you stupid moron",
    "what a pathetic loser you are, go away",
    "this is such a stupid idea, you fool",
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def policy(champion: ModelVersion) -> Policy:
    """A policy that sends every comment to review, without random sampling."""
    create_roles()
    actions.install_default_policy()
    Policy.objects.update(audit_share=0, reject_audit_share=0, second_review_share=0)
    policy = Policy.objects.active_for("")
    assert policy is not None
    policy.rules.exclude(label="").update(reject_from=None, review_from=0.0)
    return policy


@pytest.fixture
def queue(policy: Policy) -> list[QueueItem]:
    """Four open items."""
    return [create_item(text, author_ref=f"author{number}") for number, text in enumerate(COMMENTS)]


def create_item(text: str, **options: str) -> QueueItem:
    result = actions.moderate(text=text, callback_url="https://platform.example/hook", **options)  # type: ignore[arg-type]
    assert result.item is not None
    return result.item


def moderator(name: str, role: str = "moderator") -> User:
    user = User.objects.create_user(name, password="correct horse battery", is_staff=True)
    user.all_communities = True
    user.save()
    user.groups.add(Group.objects.get(name=role))
    return user


def get_item(page: Page) -> QueueItem:
    """Return the item that the review page shows."""
    match = re.search(r"/item/(\d+)/", page.url)
    assert match, page.url
    return QueueItem.objects.get(pk=match[1])


def wait_until_settled(page: Page) -> None:
    """Wait until the page has prefetched the next item, reported its presence and takes decisions."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(MIN_VIEW_TIME + 50)


def test_counter_of_reserved_items_follows_each_action(
    queue: list[QueueItem], visit: Callable[..., Visit]
) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    mine = page.locator(".views a", has_text="Mine").locator(".count")
    wait_until_settled(page)
    expect(mine).to_have_text("0")
    page.keyboard.press("Space")
    expect(mine).to_have_text("1")
    page.keyboard.press("a")
    expect(page.locator("#last-decision .decision")).to_have_text("Approved")
    expect(mine).to_have_text("0")


def test_typed_note_survives_a_reload_until_it_is_saved(
    queue: list[QueueItem], visit: Callable[..., Visit]
) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    first, note = get_item(page), page.locator("#note")
    note.fill("Second warning")
    page.reload()
    wait_until_settled(page)
    expect(note).to_have_value("Second warning")
    page.keyboard.press("a")
    expect(page.locator("#last-decision .decision")).to_have_text("Approved")
    assert get_item(page).pk != first.pk
    expect(note).to_have_value("")
    assert Decision.objects.get(item=first).note == "Second warning"
    page.goto(f"{page.url.split('/item/')[0]}/item/{first.pk}/")
    assert page.evaluate("Object.keys(sessionStorage).filter((key) => key.startsWith('note-'))") == []


def test_decide_and_undo_by_keyboard(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    moderator("ann")
    opened = visit("/admin/")
    page = opened.page
    page.fill("#id_username", "ann")
    page.fill("#id_password", "correct horse battery")
    page.press("#id_password", "Enter")
    page.wait_for_url("**/item/*/")
    wait_until_settled(page)
    first = get_item(page)
    text = page.locator("#comment > .text")
    expect(text).to_be_hidden()
    page.keyboard.press("Space")
    expect(text).to_contain_text("you")
    assert page.locator("#comment mark").count() > 0

    page.keyboard.press("a")
    expect(page.locator("#last-decision .decision")).to_have_text("Approved")
    second = get_item(page)
    assert second.pk != first.pk
    expect(page.locator("#comment > .text")).to_be_hidden()
    wait_until_settled(page)

    page.keyboard.press("2")
    page.keyboard.press("r")
    expect(page.locator("#reasons")).to_be_visible()
    expect(page.locator("#reasons :checked")).to_have_count(0)
    page.keyboard.press("Enter")
    assert Decision.objects.count() == 1
    page.keyboard.press("Escape")
    expect(page.locator("#reasons")).to_be_hidden()
    page.keyboard.press("r")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    expect(page.locator("#last-decision .decision")).to_have_text("Rejected")
    decision = Decision.objects.get(item=second)
    assert decision.labels
    assert [label for label, flag in decision.labels.items() if flag] == ["severe_toxic"]
    assert decision.rule == list(second.policy.rules.all())[2]
    wait_until_settled(page)

    page.keyboard.press("u")
    page.wait_for_url(f"**/item/{second.pk}/")
    expect(page.locator("#last-decision .decision")).to_have_text("Undone")
    expect(page.locator("#status-message")).to_contain_text(f"Undone: rejection of item {second.pk}.")
    second.refresh_from_db()
    assert second.status == "open"
    assert Delivery.objects.get(decision=decision).status == "cancelled"
    expect(page.locator("[name=labels]:checked")).to_have_attribute("value", "severe_toxic")
    wait_until_settled(page)

    page.keyboard.press("e")
    expect(page.locator("#last-decision .decision")).to_have_text("Escalated")
    second.refresh_from_db()
    assert second.queue == "escalated"
    wait_until_settled(page)
    page.keyboard.press("u")
    page.wait_for_url(f"**/item/{second.pk}/")
    expect(page.locator("[name=labels]:checked")).to_have_attribute("value", "severe_toxic")
    assert_sound(opened, "console-decided")


def test_shortcuts_are_ignored_while_typing_or_disabled(
    queue: list[QueueItem], visit: Callable[..., Visit]
) -> None:
    ann = moderator("ann")
    page = visit(CONSOLE, user=ann).page
    wait_until_settled(page)
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
    page.goto(CONSOLE)
    wait_until_settled(page)
    page.keyboard.press("a")
    page.wait_for_timeout(300)
    assert Decision.objects.count() == 0


def test_next_previous_and_skip_by_keyboard(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    first = get_item(page)
    page.keyboard.press("j")
    page.wait_for_url(lambda url: f"/item/{first.pk}/" not in url)
    wait_until_settled(page)
    page.keyboard.press("k")
    page.wait_for_url(f"**/item/{first.pk}/")
    wait_until_settled(page)
    page.keyboard.press("s")
    expect(page.locator("#status-message")).to_contain_text("Skipped")
    shown = get_item(page)
    assert shown.pk != first.pk
    expect(page).to_have_title(f"Item {shown.pk} | toxicmod")


def test_two_moderators_on_one_item(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    item = get_item(page)
    page.keyboard.press("Space")
    expect(page.locator(".lease")).to_contain_text("Reserved for you: 9:5")
    lea = moderator("lea", "lead")
    other = visit(f"{CONSOLE}item/{item.pk}/", user=lea).page
    expect(other.locator(".notice")).to_contain_text("ann is reviewing this until")
    QueueItem.objects.filter(pk=item.pk).update(lease_by=None, lease_until=None, version=item.version + 1)
    leased = actions.claim(item_id=item.pk, user=lea)
    actions.decide(item_id=item.pk, version=leased.version, user=lea, action=Decision.Action.APPROVE)
    page.keyboard.press("a")
    expect(page.locator("#unsaved")).to_contain_text("was not saved. Already handled by lea: approved")
    page.locator("#unsaved a").click()
    expect(page.locator("#review .notice")).to_contain_text("Already handled by lea: approved")


@pytest.mark.parametrize("move", ["j", "k", "view", "page"])
def test_unsaved_notice_stays_until_it_is_dismissed(
    queue: list[QueueItem], visit: Callable[..., Visit], move: str
) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    item, lea = get_item(page), moderator("lea", "lead")
    leased = actions.claim(item_id=item.pk, user=lea)
    actions.decide(item_id=item.pk, version=leased.version, user=lea, action=Decision.Action.APPROVE)
    add_latency(page, 600)
    page.keyboard.press("a")
    page.wait_for_timeout(200)
    expect(page.locator("#unsaved")).to_be_empty()
    with page.expect_event("load"):
        if move == "view":
            page.locator(".views a").nth(1).click()
        elif move == "page":
            page.locator(".console-nav a", has_text="Quality").click()
        else:
            page.keyboard.press(move)
    notice = f"“Approve item {item.pk}” was not saved. Already handled by lea: approved"
    expect(page.locator("#unsaved")).to_contain_text(notice)
    page.goto(CONSOLE)
    expect(page.locator("#unsaved")).to_contain_text(notice)
    expect(page.locator("#unsaved a")).to_have_attribute("href", re.compile(f"/item/{item.pk}/"))
    page.locator("#unsaved").get_by_role("button", name="Dismiss").click()
    expect(page.locator("#unsaved")).to_be_empty()
    page.reload()
    wait_until_settled(page)
    expect(page.locator("#unsaved")).to_be_empty()


def test_reload_during_a_decision_leaves_a_notice(
    queue: list[QueueItem], visit: Callable[..., Visit]
) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    item = get_item(page)
    page.route("**/decide/", lambda route: None)  # the server does not respond
    page.keyboard.press("a")
    page.wait_for_timeout(200)
    page.reload()
    expect(page.locator("#unsaved")).to_contain_text(f"“Approve item {item.pk}” was not saved")


def test_review_without_javascript(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    opened = visit(CONSOLE, user=moderator("ann"), javascript=False)
    page = opened.page
    first = get_item(page)
    page.locator("#comment > summary").click()
    expect(page.locator("#comment > .text")).to_be_visible()
    page.locator(".decision-buttons .reject").click()
    assert Decision.objects.count() == 0  # the form requires a reason
    page.locator("[name=rule]").first.check()
    page.locator(".decision-buttons .reject").click()
    expect(page.locator("#last-decision")).to_contain_text("Rejected")
    assert get_item(page).pk != first.pk
    page.locator("#undo button").click()
    expect(page.locator("#last-decision")).to_contain_text("Undone")
    assert get_item(page).pk == first.pk
    lea = moderator("lea", "lead")
    QueueItem.objects.filter(pk=first.pk).update(lease_by=None, lease_until=None, version=first.version + 9)
    leased = actions.claim(item_id=first.pk, user=lea)
    actions.decide(item_id=first.pk, version=leased.version, user=lea, action=Decision.Action.APPROVE)
    page.locator(".decision-buttons .approve").click()
    expect(page.locator("h1")).to_contain_text("Your change was not saved")
    page.go_back()
    expect(page.locator(".notice")).to_contain_text("Already handled by lea: approved")
    assert overflow(page) <= 0


def test_bulk_job_from_range_to_undo(policy: Policy, visit: Callable[..., Visit]) -> None:
    labels = Counter(
        create_item(
            f"you are an idiot, number {number} of many {'very ' * number}", author_ref=f"a{number}"
        ).label
        for number in range(25)
    )
    ((label, total),) = labels.most_common(1)
    assert total > 1
    page = (opened := visit(f"{CONSOLE}bulk/?label={label}", user=moderator("lea", "lead"))).page
    expect(page.locator(".lead")).to_contain_text("Choose a range of scores")
    box = page.locator("#histogram").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.52, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.99, box["y"] + 60, steps=5)
    page.mouse.up()
    page.wait_for_url("**score_from=0.5&score_to=1**")
    count = actions.select_items({"label": label, "score_from": 0.5}).count()
    assert count
    assert_sound(opened, "console-bulk-range")
    page.get_by_role("button", name="Preview sample").click()
    assert BulkJob.objects.count() == 0  # the form requires an action
    page.get_by_label("Reject", exact=True).check()
    page.get_by_label("Reason for a rejection").select_option(label="Insults")
    page.get_by_role("button", name="Preview sample").click()
    expect(page.locator("h2")).to_contain_text(f"Random sample of {min(count, 20)}")
    assert_sound(opened, "console-bulk-sample")
    page.fill("[name=typed]", str(count))
    page.get_by_role("button", name=re.compile("^Reject")).click()
    expect(page.locator("#job")).to_contain_text("Queued")
    actions.run_bulk(job_id=BulkJob.objects.get().pk)
    expect(page.locator("#job")).to_contain_text(f"{count} of {count} decided")
    assert Decision.objects.filter(action="reject").count() == count
    page.fill("[name=typed]", str(count))
    page.get_by_role("button", name=f"Undo all {count} decisions").click()
    expect(page.locator("#job")).to_contain_text("Being undone")
    actions.run_bulk(job_id=BulkJob.objects.get().pk)
    expect(page.locator("#job")).to_contain_text(f"{count} of {count} decisions undone")
    assert QueueItem.objects.open().count() == 25
    assert_sound(opened, "console-bulk-undone")


def add_latency(page: Page, milliseconds: int = 800) -> None:
    """Add a latency to every response to the page."""
    page.context.new_cdp_session(page).send(
        "Network.emulateNetworkConditions",
        {
            "offline": False,
            "latency": milliseconds,
            "downloadThroughput": -1,
            "uploadThroughput": -1,
        },
    )


def get_decidable_item(page: Page) -> int | None:
    """Return the id of the item that a key would decide, or None if keys decide none."""
    item = page.evaluate(
        """(minViewTime) => {
          const { item } = document.querySelector("#centre").dataset;
          if (window.shown !== item) [window.shown, window.shownAt] = [item, Date.now()];
          return document.querySelector("#review[aria-busy]")
            || !document.querySelector(".decision-buttons .approve")
            || Date.now() - window.shownAt < minViewTime ? null : item;
        }""",
        MIN_VIEW_TIME,
    )
    return int(item) if item else None


def approve_all(pages: list[Page], pause: float) -> list[int]:
    """Press A on each page in turn until none shows an item; return the ids in the order of the presses."""
    decided, idle = [], 0
    while idle * pause / len(pages) < 4_000 * len(pages):
        for page in pages:
            item = get_decidable_item(page)
            if item is None:
                idle += 1
            else:
                idle = 0
                decided.append(item)
                page.keyboard.press("a")
            page.wait_for_timeout(pause / len(pages))
    return decided


def create_fifty_items(policy: Policy) -> set[int]:
    """Create fifty items that are not similar; return their ids."""
    Policy.objects.update(second_review_share=0)
    words = ["idiot", "moron", "fool", "loser", "clown", "troll", "jerk", "rat", "pig", "dog"]
    return {
        create_item(
            f"{word} {word[::-1]} number {number} {'very ' * number}", author_ref=f"{word}{number}"
        ).pk
        for word in words
        for number in range(5)
    }


def assert_each_once(decided: list[int], items: set[int]) -> None:
    assert len(decided) == len(set(decided))
    assert set(decided) == items
    assert set(Decision.objects.human().values_list("item", flat=True)) == items
    assert Decision.objects.human().count() == len(items)


@pytest.mark.slow
@pytest.mark.parametrize("pause", [450, 60], ids=["slow keys", "fast keys"])
def test_fifty_decisions_with_slow_responses(policy: Policy, visit: Callable[..., Visit], pause: int) -> None:
    items = create_fifty_items(policy)
    page = (opened := visit(CONSOLE, user=moderator("ann"))).page
    wait_until_settled(page)
    add_latency(page)
    assert_each_once(approve_all([page], pause), items)
    expect(page.locator("h1")).to_have_text("Queue empty")
    expect(page.locator("#unsaved")).to_be_empty()
    assert opened.errors == []


@pytest.mark.slow
@pytest.mark.parametrize("case", ["two tabs", "two moderators"])
def test_two_tabs_on_one_queue_with_slow_responses(
    policy: Policy, visit: Callable[..., Visit], case: str
) -> None:
    items = create_fifty_items(policy)
    ann = moderator("ann")
    page = visit(CONSOLE, user=ann).page
    wait_until_settled(page)
    if case == "two tabs":
        other = page.context.new_page()
        other.goto(CONSOLE)
    else:
        other = visit(CONSOLE, user=moderator("ben")).page
    wait_until_settled(other)
    add_latency(page)
    add_latency(other)
    assert_each_once(approve_all([page, other], 450), items)
    expect(page.locator("#unsaved")).to_be_empty()
    expect(other.locator("#unsaved")).to_be_empty()


@pytest.mark.parametrize("name", ["approve", "escalate", "skip", "confirm"])
def test_double_click_decides_one_item(
    queue: list[QueueItem], visit: Callable[..., Visit], name: str
) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    first = get_item(page)
    if name == "confirm":
        page.locator(".decision-buttons .reject").click()
        page.locator("#reasons .rule").first.click()
        page.wait_for_timeout(600)  # the double click is the next two
    box = page.locator(
        f"#reasons .{name}" if name == "confirm" else f".decision-buttons .{name}"
    ).bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for count in (1, 2):
        page.mouse.down(click_count=count)
        page.mouse.up(click_count=count)
        if count == 1:
            expect(page.locator("#centre")).not_to_have_attribute("data-item", str(first.pk))
    expect(page.locator("#last-decision .decision")).to_be_visible()
    page.wait_for_timeout(600)
    second = get_item(page)
    assert Decision.objects.count() + Skip.objects.count() == 1
    expect(page.locator("[name=labels]:checked")).to_have_count(0)
    expect(page.locator("#reasons")).to_be_hidden()
    page.locator(".decision-buttons .approve").click()
    expect(page.locator("#last-decision .decision")).to_have_text("Approved")
    expect(page.locator("#last-decision a").first).to_have_text(f"item {second.pk}")
    assert Decision.objects.filter(item=second, action="approve").exists()


@pytest.mark.parametrize("pause", [0, 150, 350])
@pytest.mark.parametrize("key", ["a", "e", "s"])
def test_second_key_press_decides_no_unseen_item(
    queue: list[QueueItem], visit: Callable[..., Visit], key: str, pause: int
) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    first = get_item(page)
    # Timed in the page, because a busy machine delays Playwright's keys.
    page.evaluate(
        """([key, pause]) => {
          const press = (key) => document.body.dispatchEvent(
            new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
          const pressOthers = () => { for (const other of [key, "1", "r"]) press(other); };
          new MutationObserver((changes, observer) => {
            observer.disconnect();
            setTimeout(pressOthers, pause);
          }).observe(document.querySelector("#review"), { childList: true });
          press(key);
        }""",
        [key, pause],
    )
    expect(page.locator("#last-decision .decision")).to_be_visible()
    wait_until_settled(page)
    second = get_item(page)
    assert second != first
    assert Decision.objects.count() + Skip.objects.count() == 1
    expect(page.locator("#reasons")).to_be_hidden()
    expect(page.locator("[name=labels]:checked")).to_have_count(0)
    page.keyboard.press("a")
    expect(page.locator("#last-decision a").first).to_have_text(f"item {second.pk}")
    assert Decision.objects.filter(item=second, action="approve").exists()


def test_key_after_an_ignored_one_is_ignored_with_a_message(
    queue: list[QueueItem], visit: Callable[..., Visit]
) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    page.evaluate(
        """() => {
          window.messages = [];
          const status = document.getElementById("status-message");
          new MutationObserver(() => messages.push(status.textContent)).observe(status, { childList: true });
          const press = (key) => document.body.dispatchEvent(
            new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
          new MutationObserver((changes, observer) => {
            observer.disconnect();
            press("r");  // ignored: the item has just appeared
            const { now } = Date, later = now() + 600;
            Date.now = () => later;
            press("1");  // would tick a label, but means a reason
            press("1");
            Date.now = now;
          }).observe(document.querySelector("#review"), { childList: true });
          press("a");
        }"""
    )
    expect(page.locator("[name=labels]:checked")).to_have_count(1)
    expect(page.locator("#last-decision .decision")).to_have_text("Approved")
    assert any("The key R was ignored" in message for message in page.evaluate("messages"))
    expect(page.locator("#reasons")).to_be_hidden()
    wait_until_settled(page)
    page.keyboard.press("r")
    expect(page.locator("#reasons")).to_be_visible()
    page.keyboard.press("1")
    expect(page.locator("#reasons :checked")).to_have_count(1)


def test_labels_and_none_exclude_each_other(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    Policy.objects.update(second_review_share=1.0)
    ben, ann = moderator("ben"), moderator("ann")
    held = actions.claim(item_id=queue[0].pk, user=ben)
    actions.decide(item_id=held.pk, version=held.version, user=ben, action=Decision.Action.APPROVE)
    page = visit(f"{CONSOLE}?view=second", user=ann).page
    wait_until_settled(page)
    ticked = page.locator("[form=decide]:checked")
    for key, values in (("1", ["toxic"]), ("2", ["toxic", "severe_toxic"]), ("0", ["on"]), ("5", ["insult"])):
        page.keyboard.press(key)
        expect(ticked).to_have_count(len(values))
        assert [box.get_attribute("value") or "on" for box in ticked.all()] == values


def test_viewer_moves_with_the_keys(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    page = visit(CONSOLE, user=moderator("val", "viewer")).page
    shown = [get_item(page)]
    for _ in range(3):
        page.keyboard.press("j")
        page.wait_for_url(lambda url: f"/item/{shown[-1].pk}/" not in url)
        page.wait_for_load_state("networkidle")
        shown.append(get_item(page))
    assert {item.pk for item in shown} == {item.pk for item in queue}
    page.keyboard.press("k")
    page.wait_for_url(f"**/item/{shown[2].pk}/")


def test_small_page_hides_neither_buttons_nor_navigation(
    queue: list[QueueItem], visit: Callable[..., Visit]
) -> None:
    page = visit(CONSOLE, user=moderator("lea", "lead"), width=390).page
    wait_until_settled(page)
    page.evaluate("document.getElementById('status-message').textContent = 'A message. '.repeat(20)")
    reachable = """(element) => {
      const box = element.getBoundingClientRect();
      const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
      return element.contains(document.elementFromPoint(x, y));
    }"""
    buttons = page.locator(".action-bar button:visible").all()
    assert len(buttons) >= 5
    assert all(button.evaluate(reachable) for button in buttons)
    page.evaluate("document.getElementById('status-message').textContent = ''")
    links = page.locator(".console-nav a").all()
    assert [link.text_content() for link in links][-1] == "Help"
    assert all(link.evaluate(reachable) for link in links)


@pytest.mark.parametrize("key", ["a", "Enter"])
def test_held_key_decides_one_item(queue: list[QueueItem], visit: Callable[..., Visit], key: str) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    first = get_item(page)
    page.locator(".decision-buttons .approve").focus()
    page.keyboard.down(key)
    expect(page.locator("#centre")).not_to_have_attribute("data-item", str(first.pk))
    for _ in range(5):
        page.keyboard.down(key)  # Playwright sends these as repeats
    page.keyboard.up(key)
    expect(page.locator("#last-decision .decision")).to_have_text("Approved")
    assert [decision.item for decision in Decision.objects.all()] == [first]


@pytest.mark.parametrize("leave", ["j", "k", "later", "list"])
def test_key_while_the_next_page_loads_decides_nothing(
    queue: list[QueueItem], visit: Callable[..., Visit], leave: str
) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    page.keyboard.press("j")
    page.wait_for_url("**/item/*/")
    wait_until_settled(page)
    page.wait_for_timeout(600)
    left, url = get_item(page), page.url
    add_latency(page)
    if leave == "later":
        page.locator(".release, .next-link").click(no_wait_after=True)
    elif leave == "list":
        page.locator(".left a[href*='/item/']").last.click(no_wait_after=True)
    else:
        page.keyboard.press(leave)
    page.keyboard.press("a")
    expect(page).not_to_have_url(url, timeout=30_000)
    wait_until_settled(page)
    assert not Decision.objects.exists()
    page.keyboard.press("a")
    expect(page.locator("#last-decision")).to_contain_text("Approve")
    wait_until_settled(page)
    assert Decision.objects.get().item != left


def test_keys_work_when_there_is_no_page_to_go_back_to(
    queue: list[QueueItem], visit: Callable[..., Visit]
) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    page.evaluate("history.back = () => {}")
    page.keyboard.press("k")
    page.wait_for_timeout(1_200)
    page.keyboard.press("a")
    expect(page.locator("#last-decision")).to_contain_text("Approve")


def test_undo_of_a_pending_decision(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    first = get_item(page)
    page.keyboard.press("a")
    expect(page.locator("#last-decision .decision")).to_have_text("Approved")
    wait_until_settled(page)
    add_latency(page)
    second = get_item(page)
    page.keyboard.press("a")
    expect(page.locator("#last-decision")).to_have_text(re.compile(f"Approve item {second.pk}. Saving…"))
    page.keyboard.press("u")
    expect(page.locator("#status-message")).to_contain_text(f"Undone: approval of item {second.pk}.")
    assert get_item(page) == second
    assert list(Decision.objects.effective().values_list("item", flat=True)) == [first.pk]
    page.keyboard.press("u")
    expect(page.locator("#status-message")).to_contain_text(
        "There is nothing to undo here. Your profile lists your last decisions."
    )
    assert Decision.objects.effective().get().item == first


def test_undo_of_an_unsaved_decision_and_of_a_skip(
    queue: list[QueueItem], visit: Callable[..., Visit]
) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    wait_until_settled(page)
    page.keyboard.press("a")
    expect(page.locator("#last-decision .decision")).to_have_text("Approved")
    wait_until_settled(page)
    second = get_item(page)
    page.route("**/decide/", lambda route: route.abort())
    page.keyboard.press("a")
    page.keyboard.press("u")
    expect(page.locator("#status-message")).to_contain_text(
        f"Nothing to undo: “Approve item {second.pk}” was not saved."
    )
    expect(page.locator("#unsaved")).to_contain_text(f"“Approve item {second.pk}” was not saved.")
    assert Decision.objects.effective().count() == 1
    wait_until_settled(page)
    third = get_item(page)
    page.keyboard.press("s")
    page.keyboard.press("u")
    page.wait_for_url(f"**/item/{third.pk}/")
    assert Decision.objects.effective().count() == 1


def test_lease_begins_on_reveal_and_ends_on_leaving(
    queue: list[QueueItem], visit: Callable[..., Visit]
) -> None:
    def leased_items() -> list[int]:
        return list(QueueItem.objects.exclude(lease_by=None).values_list("pk", flat=True))

    page = visit(CONSOLE, user=moderator("ann")).page
    for view in ("all", "normal", "urgent", "uncertain", "mine"):
        page.goto(f"{CONSOLE}?view={view}")
        wait_until_settled(page)
    page.goto(CONSOLE)
    wait_until_settled(page)
    assert leased_items() == []
    item = get_item(page)
    page.keyboard.press("Space")
    expect(page.locator(".lease")).to_be_visible()
    wait_until_settled(page)
    assert leased_items() == [item.pk]
    ben = moderator("ben")
    other = visit(f"{CONSOLE}item/{item.pk}/", user=ben).page
    expect(other.locator(".notice")).to_contain_text("ann is reviewing this until")
    page.goto(f"{CONSOLE}quality/")
    page.wait_for_timeout(300)
    assert leased_items() == []
    page.goto(f"{CONSOLE}item/{item.pk}/")
    wait_until_settled(page)
    page.keyboard.press("r")
    expect(page.locator(".lease")).to_be_visible()
    wait_until_settled(page)
    assert leased_items() == [item.pk]
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    expect(page.locator("#status-message")).to_contain_text("Skipped")
    assert leased_items() == []
    wait_until_settled(page)
    other_item = get_item(page)
    actions.claim(item_id=other_item.pk, user=ben)
    page.keyboard.press("Space")
    expect(page.locator("#review .notice")).to_contain_text("ben is reviewing this until")
    expect(page.locator(".decision-buttons .approve")).to_be_disabled()


@pytest.mark.parametrize("width", [390, 1440])
def test_reject_by_mouse_requires_a_reason(
    queue: list[QueueItem], visit: Callable[..., Visit], width: int
) -> None:
    opened = visit(CONSOLE, user=moderator("ann"), width=width)
    page = opened.page
    wait_until_settled(page)
    item = get_item(page)
    page.locator(".decision-buttons .reject").click()
    reasons = page.locator("#reasons .rule")
    expect(reasons.first).to_be_in_viewport(ratio=1)
    expect(reasons.last).to_be_in_viewport(ratio=1)
    expect(page.locator("#reasons .confirm")).to_be_in_viewport(ratio=1)
    expect(page.locator("#reasons :checked")).to_have_count(0)
    assert_sound(opened, "console-reasons")
    page.locator("#reasons .confirm").click()
    page.locator("#reasons .cancel").click()
    expect(page.locator("#reasons")).to_be_hidden()
    assert Decision.objects.count() == 0
    page.locator(".decision-buttons .reject").click()
    reasons.last.click()
    page.locator("#reasons .confirm").click()
    expect(page.locator("#last-decision")).to_contain_text(re.compile(rf"Rejected\s+item {item.pk}: "))
    decision = Decision.objects.get()
    assert (decision.rule, decision.labels) == (list(item.policy.rules.all())[-1], None)


def test_similar_comments_are_shown_before_the_decision(policy: Policy, visit: Callable[..., Visit]) -> None:
    items = [
        create_item("buy my very fine golden rings today you idiot", author_ref=f"a{n}") for n in range(4)
    ]
    opened = visit(f"{CONSOLE}item/{items[0].pk}/", user=moderator("ann"))
    page = opened.page
    wait_until_settled(page)
    page.keyboard.press("c")
    expect(page.locator(".similar-list li")).to_have_count(3)
    expect(page.locator(".similar-list .text").first).to_have_text(items[1].submission.text)
    expect(page.locator(".decision-buttons .approve")).to_contain_text("all 4")
    assert_sound(opened, "console-similar")
    page.keyboard.press("c")
    expect(page.locator(".decision-buttons .approve")).not_to_contain_text("all 4")
    page.keyboard.press("c")
    expect(page.locator(".similar-list li")).to_have_count(3)
    unseen = create_item("buy my very fine golden rings today you idiot", author_ref="late")
    page.keyboard.press("a")
    expect(page.locator("#status-message")).to_contain_text(f"Approved item {items[0].pk} and 3 similar.")
    assert get_item(page) == unseen
    assert Decision.objects.count() == 4
    page.keyboard.press("u")
    expect(page.locator("#status-message")).to_contain_text(
        f"approval of item {items[0].pk} and of 3 similar."
    )
    assert QueueItem.objects.open().count() == 5


def test_message_on_touch_screens_names_no_key(policy: Policy, visit: Callable[..., Visit]) -> None:
    item, _ = create_item("one idiot"), create_item("another fool")
    page = visit(f"{CONSOLE}item/{item.pk}/", user=moderator("ann"), width=390, touch=True).page
    wait_until_settled(page)
    page.locator("button.escalate").tap()
    expect(page.locator("#status-message")).to_have_text(f"Escalated item {item.pk}.")


def test_escalate_leaves_out_similar_comments(policy: Policy, visit: Callable[..., Visit]) -> None:
    items = [
        create_item("buy my very fine golden rings today you idiot", author_ref=f"a{n}") for n in range(3)
    ]
    page = visit(f"{CONSOLE}item/{items[0].pk}/", user=moderator("ann")).page
    wait_until_settled(page)
    page.keyboard.press("c")
    expect(page.locator(".similar-list li")).to_have_count(2)
    expect(page.locator("#similar")).to_contain_text("An escalation or a skip applies to item")
    page.keyboard.press("e")
    expect(page.locator("#status-message")).to_contain_text(f"Escalated item {items[0].pk}. U undoes it.")
    assert get_item(page) in items[1:]
    assert Decision.objects.get().item == items[0]


def test_appeal(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    ann = moderator("ann")
    item = actions.claim(item_id=queue[0].pk, user=ann)
    result = actions.decide(
        item_id=item.pk,
        version=item.version,
        user=ann,
        action=Decision.Action.REJECT,
        rule=item.default_rule(),
    )
    appeal = actions.appeal(
        token=webhooks.appeal_token(result.decision), text="It was a quotation <b>of him</b>."
    )
    opened = visit(f"{CONSOLE}?view=appeal", user=moderator("lea", "lead"))
    page = opened.page
    wait_until_settled(page)
    assert get_item(page).pk == appeal.item_id
    expect(page.locator(".appeal")).to_contain_text("It was a quotation <b>of him</b>.")
    page.keyboard.press("a")
    expect(page.locator("#last-decision .decision")).to_have_text("Approved")
    appeal.refresh_from_db()
    assert appeal.status == "overturned"
    assert_sound(opened, "console-appeal")


@pytest.mark.parametrize(("width", "theme"), APPEARANCES)
def test_hostile_comments_are_escaped(
    policy: Policy, visit: Callable[..., Visit], width: int, theme: str
) -> None:
    ann = moderator("ann")
    actions.set_preferences(user=ann, masked=False)
    for text in (
        HOSTILE_TEXT,
        "\u202eidiot \u2066" + "W" * 20_000,
        "</p></article><style>*{display:none}</style>idiot",
    ):
        item = create_item(text, author_ref="<img src=x onerror=alert(3)>" + "W" * 150)
        opened = visit(f"{CONSOLE}item/{item.pk}/", user=ann, width=width, theme=theme)
        expect(opened.page.locator("#comment > .text")).to_be_visible()
        assert opened.page.locator("#comment :is(script, img, style)").count() == 0
        assert_sound(opened, "console-hostile")


@pytest.mark.parametrize(("width", "theme"), APPEARANCES)
def test_pages_pass_all_checks(
    queue: list[QueueItem], policy: Policy, visit: Callable[..., Visit], width: int, theme: str
) -> None:
    opened = visit(CONSOLE, user=moderator("lea", "lead"), width=width, theme=theme)
    pages = {
        "review": "", "none": "?view=urgent", "bulk": "bulk/", "policies": "policies/",
        "policy": f"policies/{policy.pk}/", "quality": "quality/", "webhooks": "webhooks/",
        "profile": "profile/", "help": "help/", "search": "search/?q=x",
    }  # fmt: skip
    for name, path in pages.items():
        opened.page.goto(CONSOLE + path)
        wait_until_settled(opened.page)
        if name == "review":
            opened.page.keyboard.press("Space")
        assert_sound(opened, f"console-{name}")


def test_links_to_skipped_items(queue: list[QueueItem], visit: Callable[..., Visit]) -> None:
    ann = moderator("ann")
    for item in queue:
        actions.skip(item_id=item.pk, user=ann)
    opened = visit(CONSOLE, user=ann)
    assert_sound(opened, "console-skipped")
    opened.page.locator(".empty a", has_text=str(queue[0].pk)).click()
    opened.page.wait_for_url(f"**/item/{queue[0].pk}/")
    expect(opened.page.locator(".decision-buttons .approve")).to_be_enabled()


def test_error_of_a_policy_rule_takes_one_line(policy: Policy, visit: Callable[..., Visit]) -> None:
    page = visit(f"{CONSOLE}policies/{policy.pk}/", user=moderator("lea", "lead")).page
    page.fill("[name=rule-0-review_from]", "0.6")
    page.fill("[name=rule-0-reject_from]", "0.3")
    page.get_by_role("button", name="Save as a draft").click()
    box = page.locator(".rule-edit > .overdue").bounding_box()
    assert box is not None
    assert box["height"] < 30


def test_simulation_updates_while_sliders_move(
    queue: list[QueueItem], policy: Policy, visit: Callable[..., Visit]
) -> None:
    page = visit(f"{CONSOLE}policies/{policy.pk}/", user=moderator("lea", "lead")).page
    expect(page.locator("#simulation")).to_contain_text("100.0%")
    for slider in page.locator(".slider").all():
        slider.fill("1")
    expect(page.locator("#simulation dd").first).to_have_text("100.0%")
    page.get_by_role("button", name="Save as a draft").click()
    expect(page.locator("h1")).to_contain_text("default v2")
    page.fill("[name=reason]", "Quieter")
    page.get_by_role("button", name="Activate").click()
    expect(page.locator(".status-active")).to_be_visible()


def test_admin_under_the_content_security_policy(
    queue: list[QueueItem], visit: Callable[..., Visit], client: Client
) -> None:
    lea = moderator("lea", "lead")
    for name in ("index", "moderation_queueitem_changelist", "moderation_decision_changelist"):
        opened = visit(reverse(f"admin:{name}"), user=lea)
        assert opened.errors == []
        assert "default-src 'self'" in client.get("/").headers["Content-Security-Policy"]


def test_item_that_another_moderator_decided_shows_one_notice(
    queue: list[QueueItem], visit: Callable[..., Visit]
) -> None:
    page = visit(CONSOLE, user=moderator("ann")).page
    page.clock.install()
    page.reload()
    page.wait_for_load_state("networkidle")
    page.clock.run_for(MIN_VIEW_TIME + 50)
    page.keyboard.press("Space")
    expect(page.locator(".lease")).to_contain_text("Reserved for you")
    item = get_item(page)
    actions.release(item_id=item.pk, user=User.objects.get(username="ann"))
    item.refresh_from_db()
    actions.decide(
        item_id=item.pk, version=item.version, user=moderator("ben"), action=Decision.Action.APPROVE
    )
    for _ in range(3):
        with page.expect_response("**/presence/"):
            page.clock.run_for(8_100)
    notices = page.locator("#centre [role=alert]")
    expect(notices).to_have_count(1)
    expect(notices).to_contain_text("View only. Already handled by ben")
    expect(page.locator(".lease")).to_be_hidden()


@pytest.mark.parametrize("path", ["", "bulk/", "bulk/?label=insult", "search/?q=idiot", "policies/"])
def test_long_community_name_fits_a_phone(policy: Policy, visit: Callable[..., Visit], path: str) -> None:
    create_item(COMMENTS[0], community="a long name of a community " * 3 + "x" * 19)
    page = visit(f"{CONSOLE}{path}", user=moderator("lea", "lead"), width=390).page
    assert overflow(page) <= 0


def test_edited_draft_is_kept_when_the_session_ends(policy: Policy, visit: Callable[..., Visit]) -> None:
    lea = moderator("lea", "lead")
    draft = actions.draft_policy(user=lea, community="", based_on=policy)
    page = visit(f"{CONSOLE}policies/{draft.pk}/", user=lea).page
    page.locator("[name$=review_from]").first.fill("0.3")
    session, cookies = Session.objects.get(), page.context.cookies()
    Session.objects.all().delete()
    page.click("[value=save]")
    expect(page.locator("#policy > aside")).to_contain_text("You are signed out, so nothing was sent")
    page.context.set_offline(True)
    page.click("[value=save]")
    expect(page.locator("#policy > aside")).to_contain_text("The server could not be reached")
    page.context.set_offline(False)
    session.save(force_insert=True)
    page.context.add_cookies([cookie for cookie in cookies if cookie["name"] == "sessionid"])
    page.context.clear_cookies(name="csrftoken")  # signing in replaces it
    with page.expect_navigation():
        page.dblclick("[value=save]")
    expect(page.locator("#policy:not([data-unsaved])")).to_be_visible()
    expect(page.locator("[name$=review_from]").first).to_have_value("0.3")
    assert draft.rules.filter(review_from=0.3).exists()


def test_activation_of_a_draft_with_unsaved_changes(policy: Policy, visit: Callable[..., Visit]) -> None:
    draft = actions.draft_policy(user=moderator("lea", "lead"), community="", based_on=policy)
    page = visit(f"{CONSOLE}policies/{draft.pk}/", user=User.objects.get(username="lea")).page
    page.locator("[name$=review_from]").first.fill("0.3")
    page.fill("[name=reason]", "fewer reviews")
    page.click("[value=activate]")
    expect(page.locator("#unsaved-changes")).to_contain_text("unsaved changes")
    draft.refresh_from_db()
    assert draft.status == Policy.Status.DRAFT
    page.locator("[name$=review_from]").first.fill("7")
    page.click("[value=save]")  # rejected: the page comes back with the changes
    expect(page.locator("#policy [role=alert]").first).to_be_visible()
    # A threshold that is not set does nothing, as one of 1 does.
    assert page.locator(".slider[aria-label$='reject from']").first.input_value() == "1"
    page.fill("[name=reason]", "fewer reviews")
    page.click("[value=activate]")
    expect(page.locator("#unsaved-changes")).to_be_visible()
    page.locator("[name$=review_from]").first.fill("0.3")
    page.click("[value=save]")
    expect(page.locator("#unsaved-changes")).to_be_hidden()
    page.fill("[name=reason]", "fewer reviews")
    page.click("[value=activate]")
    expect(page.locator(".status-active").first).to_be_visible()
    assert Policy.objects.active_for("").rules.filter(review_from=0.3).exists()
