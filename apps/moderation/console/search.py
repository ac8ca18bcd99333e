"""Search for queue items by number, ID, session, community or author, not by the words of comments."""

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from apps.accounts.models import User
from apps.accounts.permissions import get_user
from apps.moderation import selectors
from apps.moderation.console.review_context import item_url
from apps.moderation.console.views import console_view, render_page
from apps.moderation.models import Author, QueueItem, Submission
from apps.moderation.permissions import visible_to

MAX_RESULTS = 50
_MAX_AUTHORS = 20


@console_view()
def search(request: HttpRequest) -> HttpResponse:
    """Find items by number, the platform's id, the prediction's id, session, community or author."""
    user = get_user(request)
    query = request.GET.get("q", "").strip()[:200]
    items = _find_items(user, query) if query else []
    if len(items) == 1:
        return redirect(item_url(items[0], "all"))
    context = {"title": "Search", "query": query, "items": items}
    return render_page(request, "search", context, section="search")


def _find_items(user: User, query: str) -> list[QueueItem]:
    items = visible_to(user, QueueItem.objects.select_related("submission__author"))
    if query.isdecimal() and len(query) < 18 and (item := items.filter(pk=int(query)).first()):
        return [item]
    try:
        ids = [UUID(query)]
    except ValueError:
        ids = []
    # Each look-up uses an index. Several comments may share an id: the newest are returned.
    submissions = selectors.visible(user, Submission.objects.order_by("-pk")).values_list("pk", flat=True)
    for field in ("external_id", "session_id", "community"):
        ids += submissions.filter(**{field: query})[:MAX_RESULTS]
    authors = selectors.visible(user, Author.objects.filter(ref=query)).values_list("pk", flat=True)
    ids += submissions.filter(author__in=list(authors[:_MAX_AUTHORS]))[:MAX_RESULTS]
    return list(items.filter(submission__in=ids).order_by("-pk")[:MAX_RESULTS])
