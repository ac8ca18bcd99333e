"""Every verb of moderation. Each checks permission, is one transaction and leaves its record."""

from apps.moderation.actions.intake import Answer, moderate
from apps.moderation.actions.policies import (
    activate_policy,
    draft_policy,
    edit_draft,
    install_default_policy,
    rules_of,
)
from apps.moderation.actions.queue import (
    LEASE,
    UNDO,
    Decided,
    claim,
    claim_next,
    decide,
    decide_cluster,
    escalate,
    expire_leases,
    look,
    release,
    skip,
    undo,
)

__all__ = [
    "LEASE",
    "UNDO",
    "Answer",
    "Decided",
    "activate_policy",
    "claim",
    "claim_next",
    "decide",
    "decide_cluster",
    "draft_policy",
    "edit_draft",
    "escalate",
    "expire_leases",
    "install_default_policy",
    "look",
    "moderate",
    "release",
    "rules_of",
    "skip",
    "undo",
]
