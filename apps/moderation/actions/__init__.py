"""Writes of moderation. Each action checks the permission and is one transaction."""

from apps.moderation.actions.active_learning import queue_for_labeling, queue_for_labeling_if_due
from apps.moderation.actions.appeals import appeal, appeal_for
from apps.moderation.actions.bulk import (
    BulkFilter,
    cancel_bulk,
    histogram,
    preview_bulk,
    resume_bulk_jobs,
    run_bulk,
    sample_bulk,
    select_items,
    start_bulk,
    undo_bulk,
)
from apps.moderation.actions.decisions import (
    CLUSTER_LIMIT,
    UNDO,
    DecisionResult,
    decide,
    decide_cluster,
    undo,
    undo_cluster,
)
from apps.moderation.actions.deliveries import (
    deliver,
    deliver_endpoint,
    due_endpoints,
    resend,
    resend_all,
)
from apps.moderation.actions.examples import remove_examples, seed_examples
from apps.moderation.actions.leases import (
    LEASE,
    claim,
    claim_next,
    expire_leases,
    record_presence,
    release,
    require_available,
    skip,
)
from apps.moderation.actions.moderate import RETRY_WINDOW, ModerationResult, moderate
from apps.moderation.actions.policies import (
    activate_policy,
    discard_draft,
    draft_policy,
    edit_draft,
    install_default_policy,
    policy_fingerprint,
    rules_of,
)
from apps.moderation.actions.preferences import set_preferences
from apps.moderation.actions.request_review import request_review, send_to_review

__all__ = [
    "CLUSTER_LIMIT",
    "LEASE",
    "RETRY_WINDOW",
    "UNDO",
    "BulkFilter",
    "DecisionResult",
    "ModerationResult",
    "activate_policy",
    "appeal",
    "appeal_for",
    "cancel_bulk",
    "claim",
    "claim_next",
    "decide",
    "decide_cluster",
    "deliver",
    "deliver_endpoint",
    "discard_draft",
    "draft_policy",
    "due_endpoints",
    "edit_draft",
    "expire_leases",
    "histogram",
    "install_default_policy",
    "moderate",
    "policy_fingerprint",
    "preview_bulk",
    "queue_for_labeling",
    "queue_for_labeling_if_due",
    "record_presence",
    "release",
    "remove_examples",
    "request_review",
    "require_available",
    "resend",
    "resend_all",
    "resume_bulk_jobs",
    "rules_of",
    "run_bulk",
    "sample_bulk",
    "seed_examples",
    "select_items",
    "send_to_review",
    "set_preferences",
    "skip",
    "start_bulk",
    "undo",
    "undo_bulk",
    "undo_cluster",
]
