from datetime import timedelta

import numpy as np
import pytest
from django.utils import timezone

from apps.monitoring import actions, domain_classifier
from apps.monitoring.models import DomainCheck
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_prediction


def _texts(seed: int, count: int, *, slang: float = 0.0) -> list[str]:
    rng = np.random.default_rng(seed)
    words = [f"word{k}" for k in range(200)]
    weights = 1 / np.arange(1, 201)
    texts = []
    for _ in range(count):
        tokens = list(rng.choice(words, 12, p=weights / weights.sum()))
        if rng.random() < slang:
            tokens.insert(int(rng.integers(12)), "rizzler")
        texts.append(" ".join(tokens))
    return texts


def test_compare_domains_finds_changed_phrase() -> None:
    unchanged = domain_classifier.compare_domains(_texts(1, 600), _texts(2, 600))
    assert unchanged is not None
    assert unchanged.auc.low < 0.5 < unchanged.auc.high
    changed = domain_classifier.compare_domains(_texts(1, 600), _texts(2, 600, slang=0.4))
    assert changed is not None
    assert changed.auc.low > 0.55
    first = changed.phrases[0]
    assert first.text == "rizzler"
    assert first.before == 0
    assert first.after == pytest.approx(0.4, abs=0.08)
    assert first.strength > 0
    assert domain_classifier.compare_domains(_texts(1, 49), _texts(2, 600)) is None


def test_compare_domains_of_equal_texts_is_chance() -> None:
    same = domain_classifier.compare_domains(_texts(1, 300), _texts(1, 300))
    assert same is not None
    assert same.auc.value == pytest.approx(0.5, abs=0.03)


def test_changed_phrases_omits_rare_words() -> None:
    after = [*_texts(2, 100), *["my phone is 5550100"] * 4]
    named = domain_classifier.changed_phrases(_texts(1, 100), after, limit=10_000)
    assert not any("5550100" in phrase.text for phrase in named)


@pytest.mark.django_db
def test_compare_last_week_without_data_set_uses_week_before(champion: ModelVersion) -> None:
    now = timezone.now()
    assert actions.compare_last_week() is None  # no comments
    for days, slang in ((3, 0.5), (10, 0.0)):
        for number, text in enumerate(_texts(days, 120, slang=slang)):
            create_prediction(champion, now - timedelta(days=days, minutes=20 * number), text=text)
    check = actions.compare_last_week()
    assert check == DomainCheck.objects.get()
    assert check is not None
    assert (check.version, check.baseline_name) == (champion, "the week before")
    assert check.comments == 120
    assert check.phrases[0][0] == "rizzler"
