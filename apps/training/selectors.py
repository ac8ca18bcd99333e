"""What the pages of training say beyond the rows themselves. The admin and its views call it; reads only."""

from django.utils import timezone

from apps.registry.models import CanaryEnd
from apps.training.actions.runs import HEARTBEAT_TIMEOUT
from apps.training.models import TrainingRun


def explain_state(run: TrainingRun) -> str:
    """Return what a queued run waits for, and whether the run was interrupted; empty if neither applies."""
    if run.status not in TrainingRun.UNFINISHED:
        return ""
    sentences = [_explain_wait(run)] if run.status == TrainingRun.Status.QUEUED else []
    if run.interruptions:
        sentences.append(
            f"The run was interrupted ({run.interruptions}×) because its process was stopped. "
            + (
                "It has restarted from the beginning."
                if run.status == TrainingRun.Status.RUNNING
                else "It restarts from the beginning."
            )
        )
    return " ".join(sentences)


def _explain_wait(run: TrainingRun) -> str:
    other_runs = TrainingRun.objects.exclude(pk=run.pk)
    if running := other_runs.running().first():
        return f"Waits for run {running.pk}, which is being trained."
    # A worker stops a cancelled run soon, but does not record when.
    since = timezone.now() - HEARTBEAT_TIMEOUT
    stopping = other_runs.filter(status=TrainingRun.Status.CANCELLED, heartbeat_at__isnull=False)
    if stopped := stopping.filter(finished_at__gt=since).order_by("-finished_at").first():
        return f"Waits for run {stopped.pk}, which is being stopped."
    earlier = other_runs.filter(status=TrainingRun.Status.QUEUED, created_at__lt=run.created_at)
    if first := earlier.order_by("created_at", "pk").first():
        return f"Waits for run {first.pk}, which was queued before it."
    return "Waits for a worker."


def last_canary_end() -> CanaryEnd | None:
    """Return the newest end of a canary, or None."""
    related = ("canary__version", "canary__champion")
    return CanaryEnd.objects.select_related(*related).order_by("-created_at", "-pk").first()
