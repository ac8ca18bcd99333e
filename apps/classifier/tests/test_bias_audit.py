import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from apps.classifier.bias_audit import (
    AUDITED_LANGUAGES,
    IDENTITIES,
    UNSEEN_IDENTITIES,
    audit_sentences,
    bias_report,
    training_sentences,
    worst_group,
)


def test_audit_sentences_differ_from_training() -> None:
    training, audit = training_sentences(), audit_sentences()
    assert not set(training.texts) & set(audit.texts)
    assert not set(UNSEEN_IDENTITIES) & (set(IDENTITIES) | set(training.groups))
    assert set(UNSEEN_IDENTITIES) < set(audit.groups)
    assert "{" not in "".join(training.texts + audit.texts)
    assert training_sentences().texts == training.texts


@pytest.mark.parametrize("language", AUDITED_LANGUAGES)
def test_audit_sentences_name_each_group_in_benign_and_toxic_sentences(language: str) -> None:
    audit = audit_sentences(language=language)
    assert len(set(audit.texts)) == len(audit.texts) or language == "en"
    groups = np.array(audit.groups)
    for group in set(audit.groups) - {""}:
        assert set(audit.toxic[groups == group].tolist()) == {0, 1}


def test_worst_group_finds_biased_score() -> None:
    audit = audit_sentences()
    fair = bias_report(audit, audit.toxic.astype(float))
    assert worst_group(fair)[1] == 1
    gay = np.array([group == "gay" for group in audit.groups])
    group, value = worst_group(bias_report(audit, audit.toxic + 2.0 * gay))
    assert (group, value) == ("gay", 0)


def test_bias_report_computes_bpsn() -> None:
    audit = audit_sentences()
    score = np.random.default_rng(0).random(len(audit.texts)).round(2)  # with ties
    rows = [k for k, g in enumerate(audit.groups) if (g == "black") == (not audit.toxic[k])]
    expected = roc_auc_score(audit.toxic[rows], score[rows])
    assert bias_report(audit, score)["black"]["bpsn"] == pytest.approx(expected)


def test_training_sentences_mild_word_is_toxic_for_people_only() -> None:
    sentences = training_sentences()
    boring = [k for k, text in enumerate(sentences.texts) if "boring" in text.lower()]
    assert {(bool(sentences.groups[k]), bool(sentences.toxic[k])) for k in boring} >= {
        (True, True),
        (False, False),
    }
