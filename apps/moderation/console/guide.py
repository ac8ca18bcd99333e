"""The moderators' guide, which the console's navigation links as Help."""

from django.http import HttpRequest, HttpResponse

from apps.moderation.actions import LEASE, UNDO
from apps.moderation.console.doors import door, page, user_of
from apps.moderation.permissions import require


@door()
def guide(request: HttpRequest) -> HttpResponse:
    """Show the moderators' guide."""
    user = user_of(request)
    require(user, "moderation.view_queueitem")
    context = {
        "title": "Help",
        "lease_minutes": LEASE.seconds // 60,
        "undo_seconds": UNDO.seconds,
        "may_decide_escalated": user.has_perm("moderation.decide_escalated"),
    }
    return page(request, "guide", context, here="help")
