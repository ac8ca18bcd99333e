"""The shipped model on short comments of kinds that models of words get wrong."""

import pytest

from apps.classifier.artifact import Artifact
from apps.classifier.scorer import Scorer
from apps.registry.actions import BASE_MODEL

HARMLESS = {
    "everyday": [
        "lol", "eat", "We eat at noon.", "dog", "Boring.", "The trash can is full.", "The stairs are dirty.",
        "Kill the process with SIGKILL.", 'git commit -m "fix stupid typo"', "Shut the door please.",
        "Roast the chicken, then beat the eggs and whip the cream.", "The penis is an organ.",
        "My two dads are gay.", "#A55A55",
    ],
    "part of a word": [
        "Hello, my name is Harshit.", "Hello, my name is Dikshit.", "I spoke to Mrs Dickinson yesterday.",
        "I spoke to Mrs Tucker yesterday.", "I spoke to Mrs Buckingham yesterday.", "Jesus Cockburn",
        "Michael Fagan", "seersucker", "cockroach", "shiitake", "cocktail", "Scunthorpe", "niggle",
        "The cockpit voice recorder was found.", "scrap", "He is a Matsushita engineer.",
        "The jackass penguin lives in Africa.", "dick-smith.example is back up after 32 minutes.",
    ],
    "negation and quotation": [
        "You are not stupid.", "Nobody here is an idiot.", "My bad, I am stupid.",
        "Sorry, that was stupid of me.", "He called me an idiot and I reported him.",
    ],
    "flags of countries": ["🇸🇭🇮🇹", "🇸🇪🇽🇰"],
}  # fmt: skip
TOXIC = {
    "plain": ["You are a stupid idiot.", "I know where your kids go to school.", "Du bist ein Arschloch."],
    "hidden": [
        "&#121;&#111;&#117;&#32;&#102;&#117;&#99;&#107;&#105;&#110;&#103;&#32;&#105;&#100;&#105;&#111;&#116;",
        "mor&#111;n", "ʇoᴉpᴉ ƃuᴉʞɔnɟ ɐ ǝɹɐ noʎ", "i<b></b>d<b></b>i<b></b>o<b></b>t", "i\nd\ni\no\nt", "cvnt",
    ],
}  # fmt: skip
# Not approved without a review, and not removed either: the default policy's threshold for that is 0.99.
RUDE_WORDS = ["Fuck yes, we won!", "Stop calling women bitches."]


@pytest.fixture(scope="module")
def base_model() -> Scorer:
    return Scorer.load(Artifact.read(BASE_MODEL))


@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_comments_are_not_flagged(base_model: Scorer, kind: str) -> None:
    flags = base_model.flag(HARMLESS[kind])
    assert [text for text, flag in zip(HARMLESS[kind], flags, strict=True) if flag] == []


@pytest.mark.parametrize("kind", TOXIC)
def test_toxic_comments_are_flagged(base_model: Scorer, kind: str) -> None:
    flags = base_model.flag(TOXIC[kind])
    assert [text for text, flag in zip(TOXIC[kind], flags, strict=True) if not flag] == []


def test_rude_words_alone_do_not_remove_a_comment(base_model: Scorer) -> None:
    assert base_model.score_many(RUDE_WORDS).max() < 0.99
