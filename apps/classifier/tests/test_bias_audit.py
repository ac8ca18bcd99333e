import numpy as np
from sklearn.metrics import roc_auc_score

from apps.classifier.templates import (
    IDENTITIES,
    UNSEEN_IDENTITIES,
    audit_sentences,
    bias_report,
    training_sentences,
    worst_group,
)


def test_audit_shares_no_sentence_with_training() -> None:
    training, audit = training_sentences(), audit_sentences()
    assert not set(training.texts) & set(audit.texts)
    assert not set(UNSEEN_IDENTITIES) & (set(IDENTITIES) | set(training.groups))
    assert set(UNSEEN_IDENTITIES) < set(audit.groups)
    assert "{" not in "".join(training.texts + audit.texts)
    assert training_sentences().texts == training.texts


def test_a_fair_score_is_perfect_and_a_biased_one_is_found() -> None:
    audit = audit_sentences()
    fair = bias_report(audit, audit.toxic.astype(float))
    assert worst_group(fair)[1] == 1
    gay = np.array([group == "gay" for group in audit.groups])
    group, value = worst_group(bias_report(audit, audit.toxic + 2.0 * gay))
    assert (group, value) == ("gay", 0)


def test_measures_are_those_of_the_paper() -> None:
    audit = audit_sentences()
    score = np.random.default_rng(0).random(len(audit.texts))
    rows = [k for k, g in enumerate(audit.groups) if (g == "black") == (not audit.toxic[k])]
    assert bias_report(audit, score)["black"]["bpsn"] == roc_auc_score(audit.toxic[rows], score[rows])


def test_a_mild_word_is_toxic_of_people_only() -> None:
    sentences = training_sentences()
    boring = [k for k, text in enumerate(sentences.texts) if "boring" in text.lower()]
    assert {(bool(sentences.groups[k]), bool(sentences.toxic[k])) for k in boring} >= {
        (True, True),
        (False, False),
    }
