"""The moderation part of `/api/v1/`: parse, act, reply."""

from math import isfinite
from typing import Any, NoReturn

from django.core.exceptions import PermissionDenied
from drf_spectacular.utils import extend_schema
from rest_framework import exceptions
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.models import Scope, User
from apps.accounts.permissions import communities_of
from apps.api import problems
from apps.api.v1 import moderation_serializers as s
from apps.api.v1.views import _PROBLEM, PROBLEMS
from apps.moderation import actions, insight, webhooks
from apps.moderation.errors import ConflictError, ModerationError, StaleError
from apps.moderation.models import Decision, PolicyRule, QueueItem, Submission
from apps.moderation.permissions import visible_item, visible_to
from apps.moderation.selectors import visible
from apps.predictions.models import Prediction

CONFLICTS = PROBLEMS | {(409, "application/problem+json"): _PROBLEM}


class ConflictProblem(exceptions.APIException):
    status_code = 409
    default_code = "conflict"


class ModerationView(APIView):
    """Turns what the actions refuse into problems."""

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, StaleError | ConflictError):
            exc = ConflictProblem(str(exc))
        elif isinstance(exc, ModerationError):
            exc = exceptions.ValidationError(str(exc))
        elif isinstance(exc, PermissionDenied):
            exc = exceptions.PermissionDenied(str(exc))
        return super().handle_exception(exc)


class QueueView(ModerationView):
    """Works on the queue in the name of the moderator that the key is bound to."""

    scope = Scope.MODERATE
    anonymous = False

    def moderator(self) -> User:
        """Return the moderator.

        Raises:
            PermissionDenied: the key is bound to nobody.
        """
        user = self.request.auth.acts_as
        if user is None:
            raise PermissionDenied("This API key is bound to no moderator: set who it acts as in the admin.")
        return user


def _parsed(serializer: Any) -> dict[str, Any]:
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data


class ModerateView(ModerationView):
    """Score a comment and say by the community's policy whether it may stay, must go or needs a human."""

    scope = Scope.PREDICT

    @extend_schema(
        request=s.ModerateRequest, responses={200: s.ModerateResult, **CONFLICTS}, operation_id="moderate"
    )
    def post(self, request: Request) -> Response:
        asked = _parsed(s.ModerateRequest(data=request.data))
        if asked["callback_url"] and request.auth is None:
            raise exceptions.ValidationError(
                {"callback_url": ["Webhooks are signed for an API key: send one."]}
            )
        answer = actions.moderate(
            text=asked["text"],
            client=request.auth,
            community=asked["community"],
            author_ref=asked["author"],
            external_id=asked["external_id"],
            context=asked.get("context"),
            callback_url=asked["callback_url"],
            source=Prediction.Source.API,
        )
        return Response(_answer(answer))


def _answer(answer: actions.Answer) -> dict[str, Any]:
    submission = answer.submission
    told = {
        "id": str(submission.pk),
        "outcome": submission.outcome,
        "confidence": submission.confidence,
        "reasons": submission.reasons,
        "queue_id": answer.item.pk if answer.item else None,
        "probabilities": submission.prediction.probabilities,
        "model_version": submission.prediction.model_version.number,
        "policy_version": submission.policy.version,
    }
    if submission.outcome == Submission.Outcome.REJECT:
        first = submission.decisions.order_by("pk")[0]
        told["appeal_token"] = webhooks.appeal_token(first)
    return told


class QueuePagination(CursorPagination):
    page_size = 50

    def decode_cursor(self, request: Request) -> Any:
        """Return the cursor of the request, whose position is a number.

        Raises:
            NotFound: the cursor is not one that this view has returned.
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
    """The queue, the most pressing first; what was decided, the newest first."""

    ordering: tuple[str, ...] = ("-priority", "-pk")

    @extend_schema(
        parameters=[s.QueueQuery], responses={200: s.QueuePage, **PROBLEMS}, operation_id="moderation_queue"
    )
    def get(self, request: Request) -> Response:
        asked = _parsed(s.QueueQuery(data=request.query_params.dict()))
        user = self.moderator()
        items = visible_to(user).filter(status=asked["status"])
        if asked["mine"]:
            items = items.filter(lease_by=user)
        for name, column in (("priority", "queue"), ("label", "label"), ("community", "community")):
            if name in asked:
                items = items.filter(**{column: asked[name]})
        if asked["status"] != QueueItem.Status.OPEN:
            self.ordering = ("-pk",)
        pages = QueuePagination()
        page = pages.paginate_queryset(items.with_related(), request, view=self)
        return pages.get_paginated_response(s.QueueItemResult(page, many=True).data)


class ClaimNextView(QueueView):
    """Lease the most pressing free item for ten minutes; 204 where there is none."""

    @extend_schema(
        request=s.ClaimNextRequest,
        responses={200: s.QueueItemDetail, 204: None, **PROBLEMS},
        operation_id="claim_next",
    )
    def post(self, request: Request) -> Response:
        asked = _parsed(s.ClaimNextRequest(data=request.data or {}))
        user = self.moderator()
        item = actions.claim_next(
            user=user,
            view=asked.get("priority", "all"),
            community=asked.get("community"),
            label=asked.get("label"),
        )
        return Response(status=204) if item is None else Response(_detail(item, user))


class QueueItemView(QueueView):
    """An item of the queue."""

    @extend_schema(responses={200: s.QueueItemDetail, **CONFLICTS}, operation_id="moderation_queue_item")
    def get(self, request: Request, pk: int) -> Response:
        user = self.moderator()
        return Response(_detail(visible_item(user, pk), user))


def _detail(item: QueueItem, user: User) -> dict[str, Any]:
    return s.QueueItemDetail(item, context={"user": user}).data


class ItemActionView(QueueView):
    """Something that is done to one item."""

    def found(self, pk: int) -> QueueItem:
        """Return the item, or raise what `visible_item` raises where the moderator can't see it."""
        return visible_item(self.moderator(), pk)


class ClaimView(ItemActionView):
    """Lease the item for ten minutes; 409 where somebody else was faster."""

    @extend_schema(request=None, responses={200: s.QueueItemDetail, **CONFLICTS}, operation_id="claim")
    def post(self, request: Request, pk: int) -> Response:
        self.found(pk)
        user = self.moderator()
        return Response(_detail(actions.claim(item_id=pk, user=user), user))


class ReleaseView(ItemActionView):
    """Give the item back to the queue."""

    @extend_schema(request=None, responses={200: s.QueueItemDetail, **CONFLICTS}, operation_id="release")
    def post(self, request: Request, pk: int) -> Response:
        self.found(pk)
        user = self.moderator()
        return Response(_detail(actions.release(item_id=pk, user=user), user))


class DecideView(ItemActionView):
    """Decide an item that nobody else holds; 409 with who decided where it has been decided already."""

    @extend_schema(
        request=s.DecideRequest, responses={200: s.DecisionResult, **CONFLICTS}, operation_id="decide"
    )
    def post(self, request: Request, pk: int) -> Response:
        item = self.found(pk)
        asked = _parsed(s.DecideRequest(data=request.data))
        options: dict[str, Any] = {
            "item_id": pk,
            "version": asked["version"],
            "user": self.moderator(),
            "action": Decision.Action(asked["action"]),
            "labels": asked.get("labels"),
            "rule": self._rule(item, asked),
            "note": asked["note"],
            "client": request.auth,
        }
        if asked["similar"]:
            results = actions.decide_cluster(**options)
        else:
            results = [actions.decide(**options, seconds=asked.get("seconds"))]
        context = {"item": results[0].item, "decided": len(results)}
        return Response(s.DecisionResult(results[0].decision, context=context).data)

    def _rule(self, item: QueueItem, asked: dict[str, Any]) -> PolicyRule | None:
        if asked["action"] != Decision.Action.REJECT:
            return None
        if "reason" not in asked:
            return item.default_rule()
        rule = item.policy.rules.filter(pk=asked["reason"]).first()
        if rule is None:
            _unknown_rule(item)
        return rule


def _unknown_rule(item: QueueItem) -> NoReturn:
    known = ", ".join(f"{rule.pk} ({rule.title})" for rule in item.policy.rules.all())
    raise exceptions.ValidationError({"reason": [f"Choose one of the item's rules: {known}."]})


class UndoView(QueueView):
    """Undo a decision: within ten seconds the platform never hears of it, later it is corrected.

    409 where it is no longer the last decision of its item; the detail says what happened since.
    """

    @extend_schema(request=s.UndoRequest, responses={200: s.UndoResult, **CONFLICTS}, operation_id="undo")
    def post(self, request: Request, pk: int) -> Response:
        asked = _parsed(s.UndoRequest(data=request.data or {}))
        user = self.moderator()
        problems.found(visible(user, Decision.objects.all()), pk=pk)
        failed: list[tuple[int, str]] = []
        if asked["similar"]:
            undone, failed = actions.undo_together(decision_id=pk, user=user)
        else:
            undone = [actions.undo(decision_id=pk, user=user)]
        not_undone = [{"item": item, "reason": reason} for item, reason in failed]
        context = {"item": undone[0].item, "decided": len(undone), "not_undone": not_undone}
        return Response(s.UndoResult(undone[0].decision, context=context).data)


class ModerationStatsView(QueueView):
    """The queue in figures, and the moderator's own."""

    @extend_schema(responses={200: s.ModerationStatsResult, **PROBLEMS})
    def get(self, request: Request) -> Response:
        user = self.moderator()
        figures = {
            "views": insight.view_counts(user),
            "appeals": insight.appeal_counts(communities=communities_of(user)),
            "own": insight.own_figures(user),
        }
        return Response(s.ModerationStatsResult(figures).data)


class AppealsView(ModerationView):
    """Object to a rejection for its author; a moderator other than the first decides."""

    scope = Scope.FEEDBACK

    @extend_schema(
        request=s.AppealRequest, responses={201: s.AppealResult, **PROBLEMS}, operation_id="appeal"
    )
    def post(self, request: Request) -> Response:
        asked = _parsed(s.AppealRequest(data=request.data))
        if "token" in asked:
            appeal = actions.appeal(token=asked["token"], text=asked["text"])
        elif request.auth is None:
            raise exceptions.ValidationError({"decision_id": ["Only an API key may appeal without a token."]})
        else:
            appeal = actions.appeal_for(
                decision_id=asked["decision_id"], client=request.auth, text=asked["text"]
            )
        return Response(s.AppealResult(appeal).data, status=201)
