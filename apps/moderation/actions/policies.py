"""Draft, edit and activate policies. Past decisions keep the policy version that they were made under."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from apps.accounts.models import User
from apps.moderation.exceptions import ModerationError, PolicyChangedError
from apps.moderation.models import MAX_REASON, Policy, PolicyRule
from apps.moderation.permissions import require_policy

_POLICY_FIELDS = (
    "audit_share",
    "reject_audit_share",
    "second_review_share",
    "review_other_languages",
    "due_minutes",
    "urgent_due_minutes",
    "strike_days",
    "allowed_groups",
    "territorial_scope",
)
_RULE_FIELDS = (
    "label",
    "title",
    "reject_from",
    "review_from",
    "reason",
    "guideline",
    "strikes",
    "category",
    "position",
)
# No rule rejects automatically: the leads of a site enable automatic removal themselves, label by label.
DEFAULT_RULES: tuple[dict[str, Any], ...] = (
    {
        "label": "threat",
        "title": "Threats",
        "review_from": 0.20,
        "reason": "Your comment threatens somebody.",
        "guideline": "Announcing or wishing violence on a person or group, also as a joke among strangers. "
        "Figures of speech without a target are allowed.",
        "strikes": 3,
        "category": PolicyRule.Category.VIOLENCE,
    },
    {
        "label": "identity_hate",
        "title": "Hatred of a group",
        "review_from": 0.25,
        "reason": "Your comment attacks people for who they are.",
        "guideline": "Attacks for origin, religion, gender, sexuality, disability or the like. "
        "Naming such a group, reporting an attack or using a word about oneself is no attack.",
        "strikes": 3,
    },
    {
        "label": "severe_toxic",
        "title": "Severe abuse",
        "review_from": 0.35,
        "reason": "Your comment is severely abusive.",
        "guideline": "Abuse so severe that people would leave the conversation.",
        "strikes": 2,
        "category": PolicyRule.Category.BULLYING,
    },
    {
        "label": "insult",
        "title": "Insults",
        "review_from": 0.60,
        "reason": "Your comment insults somebody.",
        "guideline": "An insult targets a person or group. Criticism of what they said or did is allowed.",
        "category": PolicyRule.Category.BULLYING,
    },
    {
        "label": "obscene",
        "title": "Obscenity",
        "review_from": 0.70,
        "reason": "Your comment is obscene.",
        "guideline": "Crude words that target nobody are allowed where the community accepts them.",
        "category": PolicyRule.Category.SCOPE,
    },
    {
        "label": "toxic",
        "title": "Disrespect",
        "review_from": 0.70,
        "reason": "Your comment is disrespectful.",
        "guideline": "Rude enough that somebody would leave the conversation. Sharp criticism is allowed.",
        "category": PolicyRule.Category.SCOPE,
    },
    {
        "label": "",
        "title": "Spam or off topic",
        "reason": "Your comment is advertising or has nothing to do with the topic.",
        "guideline": "For violations that the model does not score.",
        "category": PolicyRule.Category.SCOPE,
    },
)


def active_policy(community: str) -> Policy:
    """Return the policy in force in a community.

    Raises:
        ModerationError: there is none.
    """
    policy = Policy.objects.active_for(community)
    if policy is None:
        raise ModerationError("No policy is active: run `manage.py install_default_policy`.")
    return policy


def _next_version(community: str) -> int:
    # The unique constraint on community and version rejects the second of two concurrent drafts.
    return (Policy.objects.filter(community=community).aggregate(last=Max("version"))["last"] or 0) + 1


def _store(policy: Policy, rules: Sequence[Mapping[str, Any]]) -> Policy:
    labels = [fields["label"] for fields in rules if fields.get("label")]
    if repeated := [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
        names = ", ".join(label.replace("_", " ") for label in repeated)
        raise ValidationError(f"A policy has one rule for each label, but there are several for: {names}.")
    policy.full_clean(exclude=["created_by"])
    policy.save()
    for position, fields in enumerate(rules):
        rule = PolicyRule(policy=policy, **{**fields, "position": position})
        rule.full_clean(exclude=["policy"])
        rule.save()
    return policy


def rules_of(policy: Policy) -> list[dict[str, Any]]:
    """Return the policy's rules as mappings of fields, for `draft_policy` and `simulate`."""
    return [{name: getattr(rule, name) for name in _RULE_FIELDS} for rule in policy.rules.all()]


def policy_fingerprint(policy: Policy) -> str:
    """Return a digest of the fields and rules; `edit_draft` and `activate_policy` notice a change by it."""
    content = [[getattr(policy, name) for name in _POLICY_FIELDS], rules_of(policy)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _require_unchanged(policy: Policy, expected: str | None) -> None:
    if expected is not None and expected != policy_fingerprint(policy):
        raise PolicyChangedError(
            f"{policy} has been changed since you opened the page, so nothing was stored."
        )


@transaction.atomic
def draft_policy(
    *,
    user: User,
    community: str = "",
    based_on: Policy | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    **fields: Any,
) -> Policy:
    """Store the next version of a community's policy as a draft.

    Args:
        based_on: the policy whose fields and rules are the defaults.
        rules: mappings of `PolicyRule` fields; see `rules_of`.
        fields: fields of `Policy`, such as `audit_share`.

    Raises:
        PermissionDeniedError: the user may not manage this community's policy.
        ValidationError: a threshold, share or label is wrong.
    """
    require_policy(user, community)
    if unknown := set(fields) - set(_POLICY_FIELDS):
        raise ValidationError(f"Unknown fields: {', '.join(sorted(unknown))}.")
    copied = {name: getattr(based_on, name) for name in _POLICY_FIELDS} if based_on else {}
    policy = Policy(
        community=community, version=_next_version(community), created_by=user, **{**copied, **fields}
    )
    return _store(policy, rules if rules is not None else rules_of(based_on) if based_on else DEFAULT_RULES)


@transaction.atomic
def edit_draft(
    *,
    policy: Policy,
    user: User,
    rules: Sequence[Mapping[str, Any]] | None = None,
    expected: str | None = None,
    **fields: Any,
) -> Policy:
    """Edit a draft, or draft the next version of a policy that was activated; return the draft.

    Args:
        expected: the `policy_fingerprint` of the draft that the user has seen.

    Raises:
        PolicyChangedError: the draft has another fingerprint.
        PermissionDeniedError, ValidationError: as in `draft_policy`.
    """
    policy = Policy.objects.select_for_update().get(pk=policy.pk)
    if policy.status != Policy.Status.DRAFT:
        return draft_policy(user=user, community=policy.community, based_on=policy, rules=rules, **fields)
    require_policy(user, policy.community)
    if unknown := set(fields) - set(_POLICY_FIELDS):
        raise ValidationError(f"Unknown fields: {', '.join(sorted(unknown))}.")
    _require_unchanged(policy, expected)
    for name, value in fields.items():
        setattr(policy, name, value)
    new_rules = rules_of(policy) if rules is None else rules
    policy.rules.all().delete()
    return _store(policy, new_rules)


@transaction.atomic
def discard_draft(*, policy: Policy, user: User) -> None:
    """Delete a draft. No decision refers to it, because a draft never applies to a comment.

    Raises:
        PermissionDeniedError: the user may not manage this community's policy.
        ModerationError: the policy is no draft.
    """
    require_policy(user, policy.community)
    policy = Policy.objects.select_for_update().get(pk=policy.pk)
    if policy.status != Policy.Status.DRAFT:
        raise ModerationError(f"{policy} was activated, so it is kept. Only a draft can be discarded.")
    policy.delete()


@transaction.atomic
def activate_policy(*, policy: Policy, user: User, reason: str, expected: str | None = None) -> Policy:
    """Activate a draft or an earlier version, and retire the community's active policy.

    Args:
        expected: the `policy_fingerprint` of the policy that the user has seen.

    Raises:
        PolicyChangedError: the policy has another fingerprint.
        PermissionDeniedError: the user may not manage this community's policy.
        ModerationError: no reason was given, it is too long, or the policy is active already.
    """
    require_policy(user, policy.community)
    if not reason.strip():
        raise ModerationError("Give a reason: it is stored with the policy.")
    if len(reason) > MAX_REASON:
        raise ModerationError(f"Shorten the reason to at most {MAX_REASON:,} characters.")
    # The lock on all versions of the community serialises concurrent activations.
    versions = list(Policy.objects.select_for_update().filter(community=policy.community).order_by("pk"))
    policy = next(version for version in versions if version.pk == policy.pk)
    if policy.status == Policy.Status.ACTIVE:
        raise ModerationError(f"{policy} is active already.")
    _require_unchanged(policy, expected)
    if policy.status == Policy.Status.RETIRED:
        policy = _store(
            Policy(
                community=policy.community,
                version=_next_version(policy.community),
                created_by=user,
                **{name: getattr(policy, name) for name in _POLICY_FIELDS},
            ),
            rules_of(policy),
        )
    return _activate(policy, user, reason)


def _activate(policy: Policy, user: User | None, reason: str) -> Policy:
    Policy.objects.filter(community=policy.community, status=Policy.Status.ACTIVE).update(
        status=Policy.Status.RETIRED
    )
    policy.status = Policy.Status.ACTIVE
    policy.activated_at, policy.activated_by, policy.reason = timezone.now(), user, reason
    policy.save(update_fields=["status", "activated_at", "activated_by", "reason"])
    return policy


@transaction.atomic
def install_default_policy() -> Policy | None:
    """Install and activate the default policy; return None if there is one already."""
    if Policy.objects.filter(community="").exists():
        return None
    policy = _store(Policy(community="", version=1), DEFAULT_RULES)
    return _activate(policy, None, "The default policy shipped with this release.")
