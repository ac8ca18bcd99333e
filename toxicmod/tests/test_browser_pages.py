"""The public pages in headless Chromium: every page and flow, at two widths, in both themes."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.urls import reverse
from playwright.sync_api import Route, expect

from apps.accounts.models import User
from apps.moderation import actions as moderation
from apps.moderation.models import Appeal, Decision, Policy, PolicyRule
from apps.moderation.webhooks import appeal_token
from apps.predictions import actions as predictions
from apps.predictions.models import Feedback, Prediction
from apps.registry.models import ModelVersion
from toxicmod.testing.browser import APPEARANCES, Visit, assert_sound, overflow

Open = Callable[..., Visit]
looks = pytest.mark.parametrize(("width", "theme"), APPEARANCES)
TOXIC_COMMENT = "You are a stupid idiot and nobody likes you.\nGo back to your cave."
HOSTILE = (
    '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'
    '"><svg onload=window.hacked=1> {{ 7|add:7 }} </textarea></mark><style>body{display:none}</style> '
    "you stupid \u202eidiot <b>idiot</b> \u2066fool\u0007 \u200b&lt;i&gt; javascript:window.hacked=1"
)


@pytest.fixture
def policy(champion: ModelVersion) -> Policy:
    """A policy without automatic removal."""
    moderation.install_default_policy()
    PolicyRule.objects.exclude(label="").update(review_from=0.5, reject_from=None)
    policy = Policy.objects.active_for("")
    assert policy is not None
    return policy


@pytest.fixture
def rejection(policy: Policy) -> Decision:
    """An automatic rejection."""
    PolicyRule.objects.filter(label="insult").update(reject_from=0.65)
    moderation.moderate(text=f"{TOXIC_COMMENT} {HOSTILE}", author_ref="somebody")
    return Decision.objects.get()


def _type(visit: Visit, text: str) -> None:
    """Type a comment and wait until it has been scored live."""
    with visit.page.expect_response("**/live"):
        visit.page.fill("#id_text", text)
    expect(visit.page.locator("#verdict")).to_be_visible()


@looks
def test_live_scoring_while_typing_stores_nothing(
    visit: Open, policy: Policy, width: int, theme: str
) -> None:
    visited = visit("/", width=width, theme=theme)
    assert_sound(visited, "home")
    _type(visited, TOXIC_COMMENT)
    page = visited.page
    expect(page.locator("#verdict")).to_have_text("Would be held for review")
    expect(page.locator("#announcement")).to_have_text("Would be held for review")
    expect(page.locator("mark", has_text="idiot")).to_have_count(1)
    assert (
        page.evaluate(
            """[...document.querySelectorAll('.bars .fill')].map(bar => bar.width.baseVal.value > 0)"""
        )
        == [True] * 6
    )
    assert_sound(visited, "live")
    _type(visited, "Thank you for the kind words.")
    expect(page.locator("#verdict")).to_have_text("Would be published")
    with page.expect_response("**/live"):
        page.fill("#id_text", "")
    expect(page.locator("#verdict")).to_have_count(0)
    assert not Prediction.objects.exists()


def test_tooltip_opens_on_hover_and_focus_and_closes_on_escape(visit: Open, policy: Policy) -> None:
    page = visit("/").page
    with page.expect_response("**/live"):
        page.fill("#id_text", TOXIC_COMMENT)
    mark = page.locator("mark", has_text="idiot")
    tip = mark.locator(".tip")
    expect(tip).to_be_hidden()
    mark.hover()
    expect(tip).to_be_visible()
    assert "insult strongly raised" in tip.inner_text().replace("\n", " ")
    tip.hover()
    expect(tip).to_be_visible()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    page.mouse.move(0, 0)
    mark.focus()
    expect(tip).to_be_visible()


def test_live_scoring_ignores_an_outdated_response(visit: Open, policy: Policy) -> None:
    visited = visit("/")
    page = visited.page
    delayed: list[Route] = []

    def delay_first(route: Route) -> None:
        if delayed:
            route.continue_()
        else:
            delayed.append(route)

    page.route("**/live", delay_first)
    page.fill("#id_text", TOXIC_COMMENT)
    end = time.monotonic() + 20
    while not delayed:
        assert time.monotonic() < end
        page.wait_for_timeout(100)
    with page.expect_response("**/live"):
        page.fill("#id_text", "Thank you for the kind words.")
    expect(page.locator("#verdict")).to_have_text("Would be published")
    delayed[0].abort()
    page.wait_for_timeout(300)
    expect(page.locator("#verdict")).to_have_text("Would be published")


def test_live_scoring_explains_errors(visit: Open, policy: Policy) -> None:
    page = visit("/").page
    page.route("**/live", lambda route: route.fulfill(status=429, body=""))
    page.fill("#id_text", TOXIC_COMMENT)
    expect(page.locator("#live-status")).to_contain_text("a moment")
    page.unroute("**/live")
    page.fill("#id_text", "a" * 20_481)
    expect(page.locator("#live-status")).to_contain_text("and the limit is 20,480")


def test_example_button_fills_in_and_scores_a_comment(visit: Open, policy: Policy) -> None:
    visited = visit("/")
    with visited.page.expect_response("**/live"):
        visited.page.click("text=Try an example")
    assert visited.page.input_value("#id_text")
    expect(visited.page.locator("#source")).to_contain_text("This example")
    assert visited.page.url.endswith("/")


@looks
def test_shared_result_without_stored_text(visit: Open, policy: Policy, width: int, theme: str) -> None:
    visited = visit("/", width=width, theme=theme)
    page = visited.page
    page.fill("#id_text", TOXIC_COMMENT)
    page.click("text=Check comment")
    page.wait_for_selector("#share")
    expect(page.locator("mark", has_text="idiot")).to_have_count(1)
    assert_sound(visited, "scored")
    page.click("#share")
    page.wait_for_url("**/r/*")
    expect(page.locator("#verdict")).to_have_text("Would be held for review")
    assert "idiot" not in page.content()
    assert_sound(visited, "shared")
    assert Prediction.objects.get().text is None


@looks
def test_stored_result_takes_feedback_once(visit: Open, policy: Policy, width: int, theme: str) -> None:
    visited = visit("/", width=width, theme=theme)
    page = visited.page
    page.fill("#id_text", TOXIC_COMMENT)
    page.check("text=Save my text")
    page.click("text=Check comment")
    page.wait_for_url("**/r/*")
    assert_sound(visited, "result")
    page.click("text=Send feedback")
    expect(page.locator("[role=alert]")).to_contain_text("right or wrong")
    assert "violates" not in " ".join(visited.errors)
    visited.errors.clear()  # Chromium logs the response 400 as an error
    page.check("text=No, it is wrong")
    page.check("#feedback >> text=Toxic: rude")
    page.fill("#id_remark", HOSTILE)
    page.click("text=Send feedback")
    expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
    assert_sound(visited, "thanks")
    feedback = Feedback.objects.get()
    assert feedback.is_right is False
    assert feedback.true_labels is not None
    assert [label for label, flag in feedback.true_labels.items() if flag] == ["toxic"]
    assert page.evaluate("window.hacked") is None


@looks
def test_model_page(visit: Open, policy: Policy, width: int, theme: str) -> None:
    visited = visit("/model", width=width, theme=theme)
    expect(visited.page.get_by_role("heading", level=1)).to_have_text("About the model")
    assert visited.page.locator("tbody tr").count() >= 7
    assert_sound(visited, "model")


@looks
def test_appeal_from_submission_to_result(visit: Open, rejection: Decision, width: int, theme: str) -> None:
    visited = visit(f"/appeal/{appeal_token(rejection)}", width=width, theme=theme)
    page = visited.page
    expect(page.locator(".verdict .title")).to_have_text("Your comment was removed")
    assert_sound(visited, "appeal")
    page.fill("#id_text", f"It was a quotation. {HOSTILE}")
    page.get_by_role("button", name="Appeal").click()
    expect(page.get_by_text("Waiting for a moderator")).to_be_visible()
    assert_sound(visited, "appealed")
    appeal = Appeal.objects.get()
    user = User.objects.create_superuser("lead", password="x")
    item = moderation.claim(item_id=appeal.item_id, user=user)
    moderation.decide(item_id=item.pk, version=item.version, user=user, action=Decision.Action.APPROVE)
    page.reload()
    expect(page.get_by_text("You were right")).to_be_visible()
    assert_sound(visited, "overturned")
    assert page.evaluate("window.hacked") is None


@looks
@pytest.mark.parametrize("path", ["/no/such/page", "/appeal/forged"])
def test_error_pages(visit: Open, path: str, width: int, theme: str) -> None:
    visited = visit(path, width=width, theme=theme)
    expect(visited.page.get_by_role("link", name="Go to the start page")).to_be_visible()
    assert visited.errors
    visited.errors.clear()  # Chromium logs the response 404 as an error
    assert_sound(visited, "error" + path.replace("/", "-"))


@pytest.mark.parametrize(
    ("width", "theme", "javascript"),
    [*((width, theme, True) for width, theme in APPEARANCES), (390, "dark", False)],
)
def test_hostile_text_is_harmless(
    visit: Open, policy: Policy, width: int, theme: str, javascript: bool
) -> None:
    visited = visit("/", width=width, theme=theme, javascript=javascript)
    page = visited.page
    page.fill("#id_text", HOSTILE)
    if javascript:
        expect(page.locator("mark", has_text="stupid")).to_have_count(1)
        assert page.evaluate("window.hacked") is None
        assert page.locator("#result :is(script, img, style)").count() == 0
    page.check("text=Save my text")
    page.click("text=Check comment")
    page.wait_for_url("**/r/*")
    assert Prediction.objects.get().text == HOSTILE
    shown = page.locator(".comment").evaluate(
        "node => { node.querySelectorAll('.tip').forEach(tip => tip.remove()); return node.textContent }"
    )
    assert shown == HOSTILE
    assert page.locator(".comment :is(script, img, style, b)").count() == 0
    if javascript:
        assert page.evaluate("window.hacked") is None
        assert_sound(visited, "hostile")


@looks
def test_long_text_without_spaces_wraps(visit: Open, policy: Policy, width: int, theme: str) -> None:
    visited = visit("/", width=width, theme=theme)
    page = visited.page
    page.fill("#id_text", "idiot" * 4_096)
    page.check("text=Save my text")
    page.click("text=Check comment")
    page.wait_for_url("**/r/*")
    assert overflow(page) <= 0
    assert page.locator(".comment").bounding_box()["width"] <= width
    assert_sound(visited, "unbroken")


def test_right_to_left_text_does_not_affect_the_page(visit: Open, policy: Policy) -> None:
    visited = visit("/")
    page = visited.page
    page.fill("#id_text", "\u202e\u2067 you stupid idiot \u05d0\u05d1\u05d2")
    page.click("text=Check comment")
    page.wait_for_selector("#share")
    tip = page.locator("mark .tip").first
    assert tip.evaluate("node => getComputedStyle(node).direction") == "ltr"
    assert tip.evaluate("node => getComputedStyle(node).unicodeBidi") == "isolate"
    assert page.locator(".comment").evaluate("node => getComputedStyle(node).unicodeBidi") == "plaintext"
    assert_sound(visited, "bidi")


@looks
def test_pages_without_javascript(visit: Open, policy: Policy, width: int, theme: str) -> None:
    visited = visit("/", width=width, theme=theme, javascript=False)
    page = visited.page
    page.click("text=Try an example")
    page.wait_for_url("**/example?")
    assert page.input_value("#id_text")
    page.fill("#id_text", TOXIC_COMMENT)
    page.click("text=Check comment")
    expect(page.locator("#verdict")).to_have_text("Would be held for review")
    expect(page.locator("mark", has_text="idiot")).to_have_count(1)
    assert page.locator("#copy").is_hidden()
    page.check("text=Yes, it is right")
    page.click("text=Send feedback")
    expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
    assert overflow(page) <= 0
    assert visited.errors == []
    assert Feedback.objects.get().is_right


def test_home_with_the_keyboard_only(visit: Open, policy: Policy) -> None:
    page = visit("/").page
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#id_text")).to_be_focused()
    assert page.locator("#id_text").evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.type(TOXIC_COMMENT)
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Check comment")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_selector("#share")


@pytest.mark.parametrize("width", [390, 768, 1024, 1920])
def test_pages_do_not_overflow(visit: Open, rejection: Decision, width: int) -> None:
    visited = visit("/", width=width)
    _type(visited, TOXIC_COMMENT)
    assert overflow(visited.page) <= 0
    for path in ("/model", "/nothing", f"/appeal/{appeal_token(rejection)}"):
        visited.page.goto(path)
        assert overflow(visited.page) <= 0


def test_api_docs_and_admin_under_the_content_security_policy(
    visit: Open, policy: Policy, admin_user: User
) -> None:
    visited = visit("/api/v1/docs", user=admin_user)
    page = visited.page
    page.click("#operations-example-example_retrieve button.opblock-summary-control")
    page.click("text=Try it out")
    page.click("text=Execute")
    expect(page.locator(".live-responses-table tbody .response-col_status")).to_contain_text("200")
    for path in (
        "/admin/",
        "/admin/accounts/user/",
        "/admin/accounts/user/add/",
        "/admin/predictions/prediction/",
    ):
        page.goto(path)
        expect(page.locator("#site-name")).to_be_visible()
    assert visited.errors == []
    assert visited.foreign_requests == []


def test_header_links_for_staff(visit: Open, policy: Policy, admin_user: User, settings: Any) -> None:
    settings.MLFLOW_TRACKING_URI = "https://mlflow.example.org"
    page = visit("/", user=admin_user).page
    expect(page.get_by_role("link", name="Console")).to_have_attribute(
        "href", reverse("admin:moderation_review")
    )
    expect(page.get_by_role("link", name="MLflow")).to_have_attribute("href", "https://mlflow.example.org")
    expect(page.get_by_role("link", name="Sign in")).to_have_count(0)


def test_double_click_stores_the_comment_once(
    visit: Open, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = predictions.score

    def score_slowly(**options: Any) -> Any:
        time.sleep(1)
        return score(**options)

    monkeypatch.setattr(predictions, "score", score_slowly)
    page = visit("/").page
    page.fill("#id_text", TOXIC_COMMENT)
    page.check("text=Save my text")
    box = page.locator("button[form=try]").bounding_box()
    assert box is not None
    page.mouse.dblclick(box["x"] + 20, box["y"] + 10, delay=150)
    page.wait_for_url("**/r/*")
    page.wait_for_timeout(1_500)
    assert Prediction.objects.filter(text=TOXIC_COMMENT).count() == 1
    page.go_back()
    expect(page.get_by_role("button", name="Check comment")).to_be_enabled()
