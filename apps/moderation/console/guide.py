"""The moderators' guide, which the console's navigation links as Help."""

from django.http import HttpRequest, HttpResponse

from apps.accounts.permissions import get_user, require
from apps.moderation.actions import LEASE, UNDO
from apps.moderation.console.views import console_view, render_page


@console_view()
def guide(request: HttpRequest) -> HttpResponse:
    """Show the moderators' guide."""
    user = get_user(request)
    require(user, "moderation.view_queueitem")
    context = {
        "title": "Help",
        "lease_minutes": LEASE.seconds // 60,
        "undo_seconds": UNDO.seconds,
        "may_decide_escalated": user.has_perm("moderation.decide_escalated"),
    }
    return render_page(request, "guide", context, section="help")
