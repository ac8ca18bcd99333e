"""Comments that are queued for active learning."""

import itertools
import random
from collections.abc import Callable, Sequence
from datetime import timedelta

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from apps.accounts.models import User
from apps.classifier.normalise import normalise
from apps.classifier.selection import Selection
from apps.moderation import actions, tasks, triage
from apps.moderation.actions import active_learning
from apps.moderation.actions.queue import enqueue_item
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import Decision, Policy, Queue, QueueItem
from apps.moderation.simulator import simulate
from apps.predictions import actions as predictions
from apps.predictions.models import Prediction
from apps.registry.models import Alias, ModelVersion
from toxicmod.testing.factories import StubScorer, create_queue_item, decide_item

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def all_different(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every comment different keys, so that comments of one template are no near-duplicates."""
    numbers = itertools.count()
    monkeypatch.setattr(triage, "near_duplicate_keys", lambda text: {next(numbers)})


def score(*texts: str, do_not_store: bool = False) -> list[Prediction]:
    return predictions.score(texts=list(texts), source=Prediction.Source.API, do_not_store=do_not_store)[0]


def texts(items: list[QueueItem]) -> list[str]:
    return [item.submission.text for item in items]


def test_queue_for_labeling_selects_least_certain_unseen_comments(
    model: ModelVersion, policy: Policy
) -> None:
    create_queue_item("insult=0.6 waits for a moderator already")
    actions.moderate(text="threat=0.97 rejected for sure")
    approved = actions.moderate(text="toxic=0.4 nearly, this one", author_ref="ann").submission
    score("obscene=0.52 close to the threshold", "toxic=0.02 far away from it")
    score("toxic=0.5 not to be stored, whatever", do_not_store=True)
    items = actions.queue_for_labeling(count=2)
    assert sorted(texts(items)) == ["obscene=0.52 close to the threshold", "toxic=0.4 nearly, this one"]
    assert {(item.kind, item.queue, item.selection_reason) for item in items} == {
        ("learn", "learn", "uncertainty")
    }
    by_text = {item.submission.text: item.submission for item in items}
    assert by_text["toxic=0.4 nearly, this one"] == approved
    only_scored = by_text["obscene=0.52 close to the threshold"]
    assert (only_scored.outcome, only_scored.reasons, only_scored.callback_url) == ("not_moderated", [], "")
    assert not only_scored.decisions.exists()


@pytest.mark.django_db(transaction=True)
def test_comments_are_scored_outside_the_transaction_and_checked_again_in_it(
    model: ModelVersion, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SQLite, a transaction that lasts as long as the scoring would block all other writers."""
    select = active_learning._select
    submission = actions.moderate(text="toxic=0.4 queued meanwhile").submission
    score("obscene=0.52 left alone")

    def select_slowly(texts: Sequence[str], count: int) -> list[Selection]:
        assert not connection.in_atomic_block
        enqueue_item(submission=submission, policy=policy, kind=QueueItem.Kind.AUDIT, label="toxic")
        return select(texts, count)

    monkeypatch.setattr(active_learning, "_select", select_slowly)
    assert texts(actions.queue_for_labeling(count=2)) == ["obscene=0.52 left alone"]


def test_audit_of_a_comment_that_arrives_while_others_are_scored_keeps_its_chance(
    model: ModelVersion, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comment was no candidate, so this draw could not have sampled it."""
    select = active_learning._select
    score(*(f"toxic=0.{number} number {number} of several" for number in range(1, 9)))
    late: list[QueueItem] = []

    def select_slowly(texts: Sequence[str], count: int) -> list[Selection]:
        submission = actions.moderate(text="toxic=0.01 a kind remark").submission
        late.append(
            enqueue_item(
                submission=submission, policy=policy, kind=QueueItem.Kind.AUDIT, label="toxic", chance=0.25
            )
        )
        return select(texts, count)

    monkeypatch.setattr(active_learning, "_select", select_slowly)
    items = actions.queue_for_labeling(count=8)
    assert QueueItem.Kind.AUDIT in {item.kind for item in items}
    late[0].refresh_from_db()
    assert late[0].sampling_chance == 0.25


def test_queue_for_labeling_queues_nothing_after_a_concurrent_draw(
    model: ModelVersion, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    select = active_learning._select
    score("obscene=0.52 one comment", "threat=0.3 quite another remark")

    def draw_meanwhile(texts: Sequence[str], count: int) -> list[Selection]:
        monkeypatch.setattr(active_learning, "_select", select)
        assert len(actions.queue_for_labeling(count=1)) == 1
        return select(texts, count)

    monkeypatch.setattr(active_learning, "_select", draw_meanwhile)
    assert actions.queue_for_labeling(count=2) == []


def test_queue_for_labeling_again_selects_newer_comments(model: ModelVersion, policy: Policy) -> None:
    score("toxic=0.5 one of the first", "toxic=0.3 another of the first lot")
    assert texts(actions.queue_for_labeling(count=1)) == ["toxic=0.5 one of the first"]
    score("toxic=0.1 came in later")
    assert texts(actions.queue_for_labeling(count=5)) == ["toxic=0.1 came in later"]
    assert actions.queue_for_labeling(count=5) == []


def test_queue_for_labeling_selects_one_of_near_duplicates(model: ModelVersion, policy: Policy) -> None:
    score(*(f"toxic=0.5 buy my wonderful cheap watches at the usual place{end}" for end in ("", "!", "!!")))
    assert len(actions.queue_for_labeling(count=3)) == 1


def random_comments(count: int, words: int) -> list[str]:
    """Return comments that differ in nearly all words."""
    rng = random.Random(1)
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(2_000)]
    return [" ".join(rng.choices(vocabulary, k=words)) for _ in range(count)]


def test_queue_for_labeling_selects_few_comments_of_one_template(model: ModelVersion, policy: Policy) -> None:
    comments = random_comments(300, 5)
    score(*(f"toxic=0.5 hello {number} you twit" for number in range(300)))
    score(*(f"toxic=0.45 {comment}" for comment in comments))
    items = actions.queue_for_labeling(count=100)
    selected = [item.submission.text for item in items if item.kind == QueueItem.Kind.ACTIVE_LEARNING]
    assert len(selected) == 90
    assert sum("you twit" in text for text in selected) <= 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("hello 279 you twit", "hello 1,272 you twit"),
        ("user123 wins", "user99 wins"),
        ("(7) go away", "(12) go away"),
        ("hello Peter you twit", "hello Maria you twit"),
        ("what is Peter Pan doing here", "what is Maria doing here"),
        ("go away you twit", "please go away you twit"),
        ("you twit 😀", "You twit! 😂😂"),
        ("buy this " * 20 + "now, only 12 left, call me", "buy this " * 20 + "today, only 7 left, call me"),
        (" ".join(random_comments(1, 60)), " ".join(random_comments(1, 60)[0].split()[1:]) + " end"),
    ],
)
def test_near_duplicates_have_a_key_in_common(first: str, second: str) -> None:
    keys = [triage.near_duplicate_keys(normalise(text)[0]) for text in (first, second)]
    assert keys[0] & keys[1]


@pytest.mark.parametrize("words", [1, 2, 3, 5, 12, 24, 25, 60])
def test_distinct_comments_have_no_key_in_common(words: int) -> None:
    comments = set(random_comments(400, words))
    keys = [triage.near_duplicate_keys(comment) for comment in comments]
    assert len(set().union(*keys)) == sum(map(len, keys))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("you rock", "you idiot"),
        ("I hate you", "I love you"),
        ("you are the worst player ever", "you are my best friend ever"),
        ("thanks for the quick fix", "thanks for your help today"),
    ],
)
def test_comments_that_differ_in_more_places_are_no_near_duplicates(first: str, second: str) -> None:
    assert triage.near_duplicate_keys(first).isdisjoint(triage.near_duplicate_keys(second))


def test_queue_for_labeling_selects_disagreements_with_challenger(
    model: ModelVersion, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenger = ModelVersion.objects.create(
        number=2, alias=Alias.CHALLENGER, recipe="test", sha256="1" * 64, manifest={"thresholds": {}}
    )

    class ChallengerScorer(StubScorer):
        def score_many(self, texts: Sequence[str], threads: int | None = None) -> np.ndarray:
            return super().score_many([text.replace("toxic=0.05", "toxic=0.9") for text in texts])

    def load_scorer(version: ModelVersion) -> StubScorer:
        assert version == challenger
        return ChallengerScorer()

    monkeypatch.setattr(ModelVersion, "load_scorer", load_scorer)
    score("toxic=0.05 harmless says one", "toxic=0.45 both unsure of this")
    first, second = actions.queue_for_labeling(count=2)
    assert {
        first.submission.text: first.selection_reason,
        second.submission.text: second.selection_reason,
    } == {
        "toxic=0.05 harmless says one": "disagreement",
        "toxic=0.45 both unsure of this": "uncertainty",
    }
    item = QueueItem.objects.get(selection_reason="disagreement")
    assert item.priority_explanation.startswith(
        "Training sample: champion and challenger disagree · no label is likely"
    )


@pytest.mark.usefixtures("all_different")
def test_queue_for_labeling_updates_sampling_chances_of_audits(
    model: ModelVersion, policy: Policy, lea: User, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy samples 20 of 40 approved comments; a draw adds one of the others and raises each chance."""
    Policy.objects.update(audit_share=0.5)
    chances = itertools.cycle([0.1, 0.9])
    monkeypatch.setattr("random.random", lambda: next(chances))
    for number in range(40):
        actions.moderate(
            text=f"toxic={number / 100 + 0.01:.2f} comment about matter{number} and thing{number}"
        )
    items = actions.queue_for_labeling(count=10)
    random_items = [item for item in items if item.kind == QueueItem.Kind.AUDIT]
    assert (len(items), len(random_items)) == (10, 1)
    expected = 0.5 + 0.5 * 1 / 20
    assert (random_items[0].queue, random_items[0].selection_reason) == (Queue.AUDIT, "")
    audits = QueueItem.objects.filter(kind=QueueItem.Kind.AUDIT)
    assert audits.count() == 21
    assert list(audits.values_list("sampling_chance", flat=True)) == pytest.approx([expected] * 21)
    for item in items:
        decide_item(item, ann, "reject" if item.kind == QueueItem.Kind.ACTIVE_LEARNING else "approve")
    result = simulate(user=lea, rules=[{"label": "toxic", "review_from": 0.01}])
    assert result.labelled == 1, "comments that active learning selected are no random sample"
    assert result.precision.value == 0


def test_simulate_ignores_comments_that_were_only_scored(
    model: ModelVersion, policy: Policy, lea: User
) -> None:
    predictions.score(texts=["toxic=0.5 in a club"], source=Prediction.Source.API, community="club")
    assert [item.community for item in actions.queue_for_labeling(count=1)] == ["club"]
    rules = [{"label": "toxic", "review_from": 0.4}]
    assert simulate(user=lea, rules=rules, community="club").sample == 0


def test_decision_on_active_learning_item_stores_labels(
    model: ModelVersion, policy: Policy, ann: User
) -> None:
    score("toxic=0.5 unsure of this one")
    (item,) = actions.queue_for_labeling(count=1)
    decision = decide_item(item, ann, "reject", labels=["toxic", "insult"])
    assert decision.delivery is None, "the platform has no callback URL"
    assert list(Decision.objects.human().effective()) == [decision.decision]
    assert decision.decision.labels is not None
    assert [label for label, true in decision.decision.labels.items() if true] == ["toxic", "insult"]


@pytest.mark.usefixtures("all_different")
def test_queue_for_labeling_if_due_is_limited_per_day(
    model: ModelVersion, policy: Policy, ann: User, settings: Settings
) -> None:
    settings.LABELS_PER_DAY = 3
    score(*(f"toxic=0.5 comment about matter{number} and thing{number}" for number in range(8)))
    tasks.queue_for_labeling()
    tasks.queue_for_labeling()
    waiting = QueueItem.objects.filter(kind=QueueItem.Kind.ACTIVE_LEARNING)
    assert waiting.count() == 3
    yesterday = timezone.now() - timedelta(days=1, minutes=1)
    waiting.update(created_at=yesterday)
    tasks.queue_for_labeling()
    assert waiting.count() == 3, "the items of yesterday are still open"
    decide_item(waiting[0], ann, "approve")
    tasks.queue_for_labeling()
    assert waiting.count() == 4
    settings.LABELS_PER_DAY = 0
    QueueItem.objects.filter(kind=QueueItem.Kind.ACTIVE_LEARNING).update(created_at=yesterday)
    assert actions.queue_for_labeling_if_due() == []


def test_queue_for_labeling_requires_count_and_policy(
    model: ModelVersion, policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ModerationError, match="at least one"):
        actions.queue_for_labeling(count=0)
    Policy.objects.update(status=Policy.Status.RETIRED)
    with pytest.raises(CommandError, match="install_default_policy"):
        call_command("queue_for_labeling")
    with pytest.raises(ModerationError, match="No policy is active"):
        tasks.queue_for_labeling()
    assert "No policy is active" in caplog.text


@pytest.mark.usefixtures("all_different")
def test_queue_for_labeling_command_reports_reasons(
    model: ModelVersion, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    score(*(f"toxic=0.5 comment about matter{number} and thing{number}" for number in range(30)))
    call_command("queue_for_labeling", "--count", "20")
    assert capsys.readouterr().out == (
        "Queued 20 comments for active learning (model unsure: 18, random sample: 2).\n"
    )


def test_selection_reason_requires_active_learning(model: ModelVersion, policy: Policy) -> None:
    item = create_queue_item("insult=0.6 somebody")
    with pytest.raises(IntegrityError):
        QueueItem.objects.filter(pk=item.pk).update(selection_reason="uncertainty")


@pytest.mark.usefixtures("all_different")
def test_review_shows_selection_reason(
    model: ModelVersion,
    policy: Policy,
    person: Callable[..., User],
    client: Client,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    score(*(f"toxic=0.45 comment about matter{number} and thing{number}" for number in range(9)))
    with django_assert_max_num_queries(12 + 9 * 6):
        items = actions.queue_for_labeling(count=9)
    mia = person("mia")
    mia.is_staff = True
    mia.save()
    client.force_login(mia, backend="django.contrib.auth.backends.ModelBackend")
    url = f"{reverse('admin:moderation_review')}?view=learn"
    with django_assert_max_num_queries(75):
        page = client.get(url, follow=True).content.decode()
    assert "Training sample: model unsure · possibly toxic (45%)" in page
    assert f'<a href="{url}" aria-current="true">' in page
    assert page.count('class="dot queue-learn"') == len(items) - 1
