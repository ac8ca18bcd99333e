"""Template sentences about people, benign and toxic alike for every group, to reduce and audit identity bias.

The audit uses other templates than training, and groups that training never names besides the others.
Metrics: Borkan et al., "Nuanced metrics for measuring unintended bias with real data for text
classification", 2019. Many of the adjectives are from the subjectivity lexicon of Pattern (De Smedt and
Daelemans, 2012, PDDL).
"""

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_DATA: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "bias_audit.json").read_text())
IDENTITIES: list[str] = _DATA["identities"]  # adjectives
GROUPS: list[str] = _DATA["groups"]  # nouns
UNSEEN_IDENTITIES: list[str] = _DATA["unseen_identities"]  # adjectives in the audit only
NEUTRAL: list[str] = _DATA["neutral"]  # adjectives that name no group
# Times as many sentences, for the groups where the Jigsaw comments are most one-sided.
_EXTRA_SENTENCES: dict[str, int] = _DATA["extra_sentences"]
_TEMPLATES: dict[str, list[str]] = _DATA["templates"]
_WORDS: dict[str, list[str]] = _DATA["words"]
_OTHER_LANGUAGES: dict[str, dict[str, list[str]]] = _DATA["other_languages"]
AUDITED_LANGUAGES = ("en", *_OTHER_LANGUAGES)
# A mild word is an insult when it describes people, and an opinion when it describes things.
_CHOICES = _WORDS | {"negative": _WORDS["negative"] + _WORDS["mild"]}


class Sentences(NamedTuple):
    """Template sentences: texts, (n,) 1 for toxic, and the group that each names, or an empty string."""

    texts: list[str]
    toxic: np.ndarray
    groups: list[str]


def training_sentences(seed: int = 0) -> Sentences:
    """Return sentences for training, as many benign as toxic ones for every group.

    Negative opinions of things, which are not toxic, come last.
    """
    rng = random.Random(seed)
    rows = []
    for names, is_adjective, copies in (
        (IDENTITIES + NEUTRAL * 2, True, 1),
        (GROUPS + _WORDS["name"], False, 2),
    ):
        for name in names:
            for toxic, kind in enumerate(("training_benign", "training_toxic")):
                rows += [
                    (_fill(template, name, rng), toxic, name)
                    for template in _TEMPLATES[kind]
                    if ("{adjective}" in template) == is_adjective
                    for _ in range(copies * _EXTRA_SENTENCES.get(name, 1))
                ]
    rows += [
        (_fill(template.replace("{mild}", word), "", rng), 0, "")
        for word in _WORDS["mild"]
        for template in _TEMPLATES["training_opinion"]
    ]
    return _collect(rows)


def audit_sentences(seed: int = 1, copies: int = 2, language: str = "en") -> Sentences:
    """Return sentences for the audit, from templates that training does not use.

    Args:
        seed, copies: of the English sentences; in other languages, each template names each group once.
        language: one of AUDITED_LANGUAGES.
    """
    if language != "en":
        data = _OTHER_LANGUAGES[language]
        return _collect(
            [
                (template.replace("{group}", group), toxic, group)
                for toxic, kind in enumerate(("benign", "toxic"))
                for template in data[kind]
                for group in data["groups"]
            ]
        )
    rng = random.Random(seed)
    rows = []
    for adjective in IDENTITIES + UNSEEN_IDENTITIES + NEUTRAL:
        group = "" if adjective in NEUTRAL else adjective
        for toxic, kind in enumerate(("audit_benign", "audit_toxic")):
            for template in _TEMPLATES[kind] * copies:
                names_group = "{adjective}" in template
                rows.append((_fill(template, adjective, rng), toxic, group if names_group else ""))
    return _collect(rows)


def _fill(template: str, name: str, rng: random.Random) -> str:
    # The order of the slots decides what a seed gives.
    for slot in (
        "name", "person", "positive", "insult", "negative", "thing", "benign_verb", "toxic_verb", "harm",
    ):  # fmt: skip
        while f"{{{slot}}}" in template:
            template = template.replace(f"{{{slot}}}", rng.choice(_CHOICES[slot]), 1)
    text = template.replace("{adjective}", name).replace("{group}", name)
    return text[0].upper() + text[1:] + rng.choice(("", ".", "!", "."))


def _collect(rows: list[tuple[str, int, str]]) -> Sentences:
    texts, toxic, groups = zip(*rows, strict=True)
    return Sentences(list(texts), np.array(toxic, np.int8), list(groups))


def bias_report(sentences: Sentences, toxic_probability: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the subgroup, BPSN and BNSP AUC of the label `toxic` for each group.

    BPSN compares the benign sentences of the group with the toxic ones of all others: it is low where the
    group's name alone counts as toxic. BNSP compares the toxic sentences of the group with the benign ones of
    all others: it is low where toxicity against the group is missed.
    """
    groups, toxic = np.array(sentences.groups), sentences.toxic.astype(bool)
    ranks = np.unique(toxic_probability, return_inverse=True)[1]
    report = {}
    for group in sorted(set(sentences.groups) - {""}):
        in_group = groups == group
        subsets = {
            "subgroup": in_group,
            "bpsn": np.where(toxic, ~in_group, in_group),
            "bnsp": np.where(toxic, in_group, ~in_group),
        }
        report[group] = {
            name: _roc_auc(ranks[toxic & rows], ranks[~toxic & rows]) for name, rows in subsets.items()
        }
    return report


def _roc_auc(toxic_ranks: np.ndarray, benign_ranks: np.ndarray) -> float:
    """Return the fraction of pairs in which the toxic sentence ranks higher; ties count half.

    With scikit-learn, whose checks of its arguments take longer than the computation, the audit of a model
    takes seconds.
    """
    count = 1 + int(max(toxic_ranks.max(), benign_ranks.max()))
    toxic, benign = (np.bincount(ranks, minlength=count) for ranks in (toxic_ranks, benign_ranks))
    return float(toxic @ (np.cumsum(benign) - benign / 2) / (len(toxic_ranks) * len(benign_ranks)))


def worst_group(report: dict[str, dict[str, float]], metric: str = "bpsn") -> tuple[str, float]:
    """Return the group with the lowest "subgroup", "bpsn" or "bnsp" AUC, and that AUC."""
    group = min(report, key=lambda name: report[name][metric])
    return group, report[group][metric]
