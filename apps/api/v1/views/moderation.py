"""The views of `/api/v1/` for moderation and appeals."""

from math import isfinite
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import exceptions
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.models import Scope, User
from apps.accounts.permissions import communities_of
from apps.api import problems
from apps.api.v1.serializers import moderation as s
from apps.api.v1.views.predictions import PROBLEM, PROBLEMS
from apps.core.exceptions import PermissionDeniedError
from apps.moderation import actions, saved_views, statistics, webhooks
from apps.moderation.availability import LAST_ESCALATED_BY
from apps.moderation.models import Decision, PolicyRule, QueueItem, Submission
from apps.moderation.permissions import visible_item, visible_to
from apps.moderation.selectors import visible
from apps.predictions.models import Prediction

CONFLICTS = PROBLEMS | {(409, "application/problem+json"): PROBLEM}


class QueueView(APIView):
    """Base of the views that act as the moderator of the API key."""

    scope = Scope.MODERATE
    anonymous = False

    def moderator(self) -> User:
        """Return the moderator of the API key.

        Raises:
            PermissionDeniedError: the API key has no moderator.
        """
        user = self.request.auth.acts_as
        if user is None:
            raise PermissionDeniedError(
                "This API key has no moderator: set “Acts as” of the key in the admin."
            )
        return user


class ModerateView(APIView):
    """Score a comment and apply the community's policy: approve, reject or human review."""

    scope = Scope.PREDICT

    @extend_schema(
        request=s.ModerateRequest, responses={200: s.ModerateResult, **PROBLEMS}, operation_id="moderate"
    )
    def post(self, request: Request) -> Response:
        data = s.ModerateRequest.validated(request.data)
        if data["callback_url"] and request.auth is None:
            raise exceptions.ValidationError(
                {"callback_url": ["Webhooks need an API key: send one with the request."]}
            )
        result = actions.moderate(
            text=data["text"],
            api_key=request.auth,
            community=data["community"],
            author_ref=data["author"],
            external_id=data["external_id"],
            context=data.get("context"),
            callback_url=data["callback_url"],
            source=Prediction.Source.API,
        )
        return Response(_serialize(result))


def _serialize(result: actions.ModerationResult) -> dict[str, Any]:
    submission = result.submission
    body = {
        "id": str(submission.pk),
        "outcome": submission.outcome,
        "confidence": submission.confidence,
        "reasons": submission.reasons,
        "revision": submission.revision,
        "queue_id": result.item.pk if result.item else None,
        "probabilities": submission.prediction.probabilities,
        "model_version": submission.prediction.model_version.number,
        "policy_version": submission.policy.version,
    }
    if submission.outcome == Submission.Outcome.REJECT:
        decision = submission.decisions.order_by("pk")[0]
        body["appeal_token"] = webhooks.appeal_token(decision)
    return body


class QueuePagination(CursorPagination):
    page_size = 50

    def decode_cursor(self, request: Request) -> Any:
        """Return the cursor of the request.

        Raises:
            NotFound: the position of the cursor is not a number, as in the cursors of this view.
        """
        cursor = super().decode_cursor(request)
        if cursor is not None and cursor.position is not None:
            number = int if self.ordering[0].endswith("pk") else float
            try:
                is_valid = isfinite(number(cursor.position))
            except (ValueError, OverflowError):
                is_valid = False
            if not is_valid:
                raise exceptions.NotFound(self.invalid_cursor_message)
        return cursor

    def get_ordering(self, request: Request, queryset: Any, view: Any) -> tuple[str, ...]:
        return view.ordering


class QueueListView(QueueView):
    """The open queue items by descending priority, or the decided ones from the newest."""

    ordering: tuple[str, ...] = ("-priority", "-pk")

    @extend_schema(
        parameters=[s.QueueQuery], responses={200: s.QueuePage, **PROBLEMS}, operation_id="moderation_queue"
    )
    def get(self, request: Request) -> Response:
        data = s.QueueQuery.validated(request.query_params.dict())
        user = self.moderator()
        items = visible_to(user).filter(status=data["status"])
        if data["mine"]:
            items = items.filter(lease_by=user)
        for name in ("queue", "label", "community"):
            if name in data:
                items = items.filter(**{name: data[name]})
        if data["status"] != QueueItem.Status.OPEN:
            self.ordering = ("-pk",)
        paginator = QueuePagination()
        items = items.with_related().annotate(escalated_by=LAST_ESCALATED_BY)
        page = paginator.paginate_queryset(items, request, view=self)
        results = s.QueueItemResult(page, many=True, context={"user": user})
        return paginator.get_paginated_response(results.data)


class ClaimNextView(QueueView):
    """Lease the free queue item with the highest priority for ten minutes; 204 if there is none."""

    @extend_schema(
        request=s.ClaimNextRequest,
        responses={200: s.QueueItemDetail, 204: None, **PROBLEMS},
        operation_id="claim_next",
    )
    def post(self, request: Request) -> Response:
        data = s.ClaimNextRequest.validated(request.data or {})
        user = self.moderator()
        item = actions.claim_next(
            user=user,
            view=data.get("queue", "all"),
            community=data.get("community"),
            label=data.get("label"),
        )
        return Response(status=204) if item is None else Response(_detail(item, user))


class QueueItemView(QueueView):
    """A queue item."""

    @extend_schema(responses={200: s.QueueItemDetail, **CONFLICTS}, operation_id="moderation_queue_item")
    def get(self, request: Request, pk: int) -> Response:
        user = self.moderator()
        return Response(_detail(visible_item(user, pk), user))


def _detail(item: QueueItem, user: User) -> dict[str, Any]:
    return s.QueueItemDetail(item, context={"user": user}).data


class ItemActionView(QueueView):
    """Base of the views that change one queue item."""

    def get_item(self, pk: int) -> QueueItem:
        """Return the item; raises the exceptions of `visible_item`."""
        return visible_item(self.moderator(), pk)


class ClaimView(ItemActionView):
    """Lease the item for ten minutes; 409 if another moderator holds it or has decided it."""

    @extend_schema(request=None, responses={200: s.QueueItemDetail, **CONFLICTS}, operation_id="claim")
    def post(self, request: Request, pk: int) -> Response:
        self.get_item(pk)
        user = self.moderator()
        return Response(_detail(actions.claim(item_id=pk, user=user), user))


class ReleaseView(ItemActionView):
    """Return the item to the queue."""

    @extend_schema(request=None, responses={200: s.QueueItemDetail, **CONFLICTS}, operation_id="release")
    def post(self, request: Request, pk: int) -> Response:
        self.get_item(pk)
        user = self.moderator()
        return Response(_detail(actions.release(item_id=pk, user=user), user))


class DecideView(ItemActionView):
    """Decide an item that no other moderator holds; 409 if it is decided, and the detail says by whom."""

    @extend_schema(
        request=s.DecideRequest, responses={200: s.DecisionResult, **CONFLICTS}, operation_id="decide"
    )
    def post(self, request: Request, pk: int) -> Response:
        item = self.get_item(pk)
        data = s.DecideRequest.validated(request.data)
        options: dict[str, Any] = {
            "item_id": pk,
            "version": data["version"],
            "user": self.moderator(),
            "action": Decision.Action(data["action"]),
            "labels": data.get("labels"),
            "rule": self._rule(item, data),
            "note": data["note"],
            "api_key": request.auth,
        }
        if data["similar"]:
            results = actions.decide_cluster(**options)
        else:
            results = [actions.decide(**options, seconds=data.get("seconds"))]
        context = {"item": results[0].item, "decided": len(results)}
        return Response(s.DecisionResult(results[0].decision, context=context).data)

    def _rule(self, item: QueueItem, data: dict[str, Any]) -> PolicyRule | None:
        if data["action"] != Decision.Action.REJECT:
            return None
        if "reason" not in data:
            return item.default_rule()
        rule = item.policy.rules.filter(pk=data["reason"]).first()
        if rule is None:
            rules = ", ".join(f"{rule.pk} ({rule.title})" for rule in item.policy.rules.all())
            raise exceptions.ValidationError({"reason": [f"Choose one of the item's rules: {rules}."]})
        return rule


class UndoView(QueueView):
    """Undo a decision. After ten seconds, the platform also gets a webhook that corrects the decision.

    409 if it is no longer the last decision of its item; the detail says what has happened since.
    """

    @extend_schema(request=s.UndoRequest, responses={200: s.UndoResult, **CONFLICTS}, operation_id="undo")
    def post(self, request: Request, pk: int) -> Response:
        data = s.UndoRequest.validated(request.data or {})
        user = self.moderator()
        problems.get_or_404(visible(user, Decision.objects.all()), pk=pk)
        failed: list[tuple[int, str]] = []
        if data["similar"]:
            undone, failed = actions.undo_cluster(decision_id=pk, user=user)
        else:
            undone = [actions.undo(decision_id=pk, user=user)]
        not_undone = [{"item": item, "reason": reason} for item, reason in failed]
        context = {"item": undone[0].item, "decided": len(undone), "not_undone": not_undone}
        return Response(s.UndoResult(undone[0].decision, context=context).data)


class ModerationStatsView(QueueView):
    """The statistics of the queue and of the moderator."""

    @extend_schema(responses={200: s.ModerationStatsResult, **PROBLEMS})
    def get(self, request: Request) -> Response:
        user = self.moderator()
        data = {
            "views": saved_views.view_counts(user),
            "appeals": statistics.appeal_counts(communities=communities_of(user)),
            "moderator": statistics.moderator_statistics(user),
        }
        return Response(s.ModerationStatsResult(data).data)


class AppealsView(APIView):
    """Appeal against a rejection for the author; a different moderator decides the appeal."""

    scope = Scope.FEEDBACK

    @extend_schema(
        request=s.AppealRequest, responses={201: s.AppealResult, **PROBLEMS}, operation_id="appeal"
    )
    def post(self, request: Request) -> Response:
        data = s.AppealRequest.validated(request.data)
        if "token" in data:
            appeal = actions.appeal(token=data["token"], text=data["text"])
        elif request.auth is None:
            raise exceptions.ValidationError(
                {"decision_id": ["Without a token, an appeal needs an API key."]}
            )
        else:
            appeal = actions.appeal_for(
                decision_id=data["decision_id"], api_key=request.auth, text=data["text"]
            )
        return Response(s.AppealResult(appeal).data, status=201)
