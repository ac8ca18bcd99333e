"""The profile page: a moderator's own statistics, decisions and preferences. No other user sees it."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from apps.accounts.permissions import get_user, in_communities_of, require
from apps.moderation import actions, statistics
from apps.moderation.console.forms import PreferenceForm
from apps.moderation.console.views import console_view, render_page
from apps.moderation.models import Decision, Preference

DAYS = 30
_LAST_DECISIONS = 20


@console_view("GET", "HEAD", "POST")
def profile(request: HttpRequest) -> HttpResponse:
    """Show the user's statistics, decisions and preferences; POST stores the preferences."""
    user = get_user(request)
    require(user, "moderation.view_queueitem")
    shift = statistics.shift_exposure(user)  # before the form changes the preferences, even to invalid ones
    form = PreferenceForm(request.POST or None, instance=Preference.for_user(user))
    if request.method == "POST" and form.is_valid():
        actions.set_preferences(user=user, **form.cleaned_data)
        messages.success(request, "The preferences were saved.")
        return redirect("admin:moderation_profile")
    own_statistics = statistics.moderator_statistics(user, days=DAYS)
    maximum = max((count for _, count in own_statistics.by_day), default=1)
    decisions = in_communities_of(user, Decision.objects.filter(by=user), "submission__community")
    context = {
        "title": "Profile",
        "form": form,
        "statistics": own_statistics,
        "by_day": [(day, count, 100 * count / maximum) for day, count in own_statistics.by_day],
        "days": DAYS,
        "shift": shift,
        "decisions": decisions.exclude(action=Decision.Action.REVERSE)
        .select_related("rule", "reversal", "item")
        .order_by("-created_at")[:_LAST_DECISIONS],
    }
    return render_page(request, "profile", context, section="profile", status=422 if form.errors else 200)
