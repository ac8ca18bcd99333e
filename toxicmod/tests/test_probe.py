import pytest
from toxicmod.tests.browser import assert_sound, LOOKS, violations, overflow
from apps.moderation.actions import install_default_policy

TEXT = "You are a stupid idiot and nobody likes you.\nGo back to your cave, thanks for nothing."


@pytest.mark.parametrize(("width", "theme"), LOOKS)
def test_probe(visit, width, theme):
    install_default_policy()
    v = visit("/", width=width, theme=theme)
    p = v.page
    p.screenshot(path=f"/tmp/shots/home-{width}-{theme}.png", full_page=True)
    p.fill("#id_text", TEXT)
    p.wait_for_selector("mark")
    p.wait_for_timeout(400)
    p.hover("mark >> nth=1")
    p.screenshot(path=f"/tmp/shots/live-{width}-{theme}.png", full_page=True)
    print(overflow(p), violations(p), v.errors, v.elsewhere)
    p.click("text=Score it")
    p.wait_for_selector("#share")
    p.screenshot(path=f"/tmp/shots/result-{width}-{theme}.png", full_page=True)
    print(overflow(p), violations(p), v.errors, v.elsewhere)
    p.goto("/model")
    p.screenshot(path=f"/tmp/shots/model-{width}-{theme}.png", full_page=True)
    print(overflow(p), violations(p), v.errors, v.elsewhere)
    p.goto("/nothing")
    p.screenshot(path=f"/tmp/shots/404-{width}-{theme}.png", full_page=True)
    print(overflow(p), violations(p), v.errors, v.elsewhere)
