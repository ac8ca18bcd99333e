"""Reads that reach a person, limited to what that person may see."""

from apps.accounts.models import User
from apps.accounts.permissions import may_see_community
from apps.moderation.models import Policy, Submission

MAX_COMMUNITIES = 1_000


def communities_for(user: User) -> list[str]:
    """Return the names of the existing communities that the user may see, at most `MAX_COMMUNITIES`.

    A community exists once a comment or a policy names it. The empty name, for comments without a community,
    is among them where there are such comments.
    """
    names = set(Policy.objects.exclude(community="").values_list("community", flat=True).distinct())
    # One look-up in the index for each community: `DISTINCT` would read every submission.
    submissions = Submission.objects.order_by("community").values_list("community", flat=True)
    name = submissions.first()
    while name is not None and len(names) < MAX_COMMUNITIES:
        names.add(name)
        name = submissions.filter(community__gt=name).first()
    return sorted(name for name in names if may_see_community(user, name))
