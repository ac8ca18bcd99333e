"""Every verb of moderation. Each checks permission, is one transaction and leaves its record."""

from apps.moderation.actions.appeals import appeal, appeal_for
from apps.moderation.actions.asking import ask_for_review
from apps.moderation.actions.bulk import (
    BulkFilter,
    cancel_bulk,
    chosen,
    preview_bulk,
    resume_bulk_jobs,
    run_bulk,
    sample_bulk,
    start_bulk,
)
from apps.moderation.actions.deliveries import (
    deliver,
    due_deliveries,
    resend,
    retire_webhook_key,
    rotate_webhook_key,
)
from apps.moderation.actions.examples import remove_examples, seed_examples
from apps.moderation.actions.intake import Answer, moderate
from apps.moderation.actions.learning import queue_to_learn, queue_to_learn_when_due
from apps.moderation.actions.people import set_preferences
from apps.moderation.actions.policies import (
    activate_policy,
    draft_policy,
    edit_draft,
    install_default_policy,
    rules_of,
)
from apps.moderation.actions.queue import (
    LEASE,
    SKIPPED,
    UNDO,
    Decided,
    claim,
    claim_next,
    decide,
    decide_cluster,
    decided_first,
    decided_together,
    escalate,
    expire_leases,
    look,
    release,
    skip,
    undo,
    undo_together,
)

__all__ = [
    "LEASE",
    "SKIPPED",
    "UNDO",
    "Answer",
    "BulkFilter",
    "Decided",
    "activate_policy",
    "appeal",
    "appeal_for",
    "ask_for_review",
    "cancel_bulk",
    "chosen",
    "claim",
    "claim_next",
    "decide",
    "decide_cluster",
    "decided_first",
    "decided_together",
    "deliver",
    "draft_policy",
    "due_deliveries",
    "edit_draft",
    "escalate",
    "expire_leases",
    "install_default_policy",
    "look",
    "moderate",
    "preview_bulk",
    "queue_to_learn",
    "queue_to_learn_when_due",
    "release",
    "remove_examples",
    "resend",
    "resume_bulk_jobs",
    "retire_webhook_key",
    "rotate_webhook_key",
    "rules_of",
    "run_bulk",
    "sample_bulk",
    "seed_examples",
    "set_preferences",
    "skip",
    "start_bulk",
    "undo",
    "undo_together",
]
