"""People, a policy and a model whose scores a test can choose."""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import Group

from apps.accounts.actions import create_api_key
from apps.accounts.models import APIKey, CommunityAccess, User
from apps.classifier.labels import LABELS
from apps.classifier.normalise import normalise
from apps.classifier.scorer import Explanation, Span
from apps.moderation import actions
from apps.moderation.models import Policy, PolicyRule, QueueItem
from apps.moderation.roles import create_roles
from apps.registry import serving
from apps.registry.models import Alias, ModelVersion
from apps.registry.serving import Served
from apps.webhooks.tests.conftest import receiver  # noqa: F401

AUTOMATIC_REMOVAL = {
    "threat": 0.95,
    "identity_hate": 0.95,
    "severe_toxic": 0.95,
    "insult": 0.98,
    "obscene": 0.99,
    "toxic": 0.99,
}


class ChosenScores:
    """A scorer that reads the scores from the text: `threat=0.9 insult=0.5 whatever`."""

    thresholds = np.full(6, 0.5)

    def score(self, text: str) -> np.ndarray:
        chosen = dict(word.split("=", 1) for word in text.split() if word.split("=")[0] in LABELS)
        return np.array([float(chosen.get(label, 0.01)) for label in LABELS])

    def score_many(self, texts: Sequence[str], threads: int | None = None) -> np.ndarray:
        return np.array([self.score(text) for text in texts])

    def explain(self, text: str) -> Explanation:
        spans = [
            Span(match.start(), match.end(), np.full(6, float(len(match[0]))))
            for match in re.finditer(r"\S+", text)
        ]
        return Explanation(np.zeros(6), np.zeros(6), np.zeros(6), spans)

    def text_key(self, text: str) -> bytes:
        return hashlib.sha256(normalise(text)[0].encode("utf-8", "surrogatepass")).digest()


@pytest.fixture
def model(db: None, monkeypatch: pytest.MonkeyPatch) -> ModelVersion:
    """A champion that scores as the texts say."""
    version = ModelVersion.objects.with_alias(Alias.CHAMPION) or ModelVersion.objects.create(
        number=1, alias=Alias.CHAMPION, recipe="test", sha256="0" * 64, manifest={"thresholds": {}}
    )
    served = Served(version.pk, version.number, ChosenScores())  # type: ignore[arg-type]
    monkeypatch.setattr(serving, "current", lambda: served)
    return version


@pytest.fixture
def policy(db: None) -> Policy:
    """The default policy with automatic removal and without chance: no audits, no second reviews."""
    actions.install_default_policy()
    for label, threshold in AUTOMATIC_REMOVAL.items():
        PolicyRule.objects.filter(label=label).update(reject_from=threshold)
    Policy.objects.update(audit_share=0, reject_audit_share=0, second_review_share=0)
    found = Policy.objects.active_for("")
    assert found is not None
    return found


@pytest.fixture
def person(db: None) -> Callable[..., User]:
    """Make a user of a role."""
    create_roles()

    def make(name: str, role: str = "moderator", *, all_communities: bool = True) -> User:
        user = User.objects.create_user(name, password="correct horse", all_communities=all_communities)
        user.groups.add(Group.objects.get(name=role))
        return User.objects.get(pk=user.pk)

    return make


def limit_to(user: User, *communities: str) -> None:
    """Let the user see these communities and no other."""
    User.objects.filter(pk=user.pk).update(all_communities=False)
    user.all_communities = False
    user.__dict__.pop("communities", None)
    CommunityAccess.objects.filter(user=user).delete()
    CommunityAccess.objects.bulk_create(
        CommunityAccess(user=user, community=community) for community in communities
    )


@pytest.fixture
def ann(person: Callable[..., User]) -> User:
    """A moderator."""
    return person("ann")


@pytest.fixture
def ben(person: Callable[..., User]) -> User:
    """Another moderator."""
    return person("ben")


@pytest.fixture
def lea(person: Callable[..., User]) -> User:
    """A lead."""
    return person("lea", "lead")


@pytest.fixture
def client_key(db: None) -> APIKey:
    """A platform's key."""
    return create_api_key(name="platform")[0]


@pytest.fixture
def item(model: ModelVersion, policy: Policy, client_key: APIKey) -> QueueItem:
    """A comment that waits for a moderator and whose platform wants to hear of it."""
    return queued("insult=0.7 you fool", client=client_key, callback_url="https://platform.example/hook")


def queued(text: str, **options: Any) -> QueueItem:
    """Send a comment to `moderate` and return its queue item."""
    options.setdefault("author_ref", "troll")
    answer = actions.moderate(text=text, **options)
    assert answer.item is not None
    return answer.item
