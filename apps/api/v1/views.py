"""The views of `/api/v1/`: parse, act, reply."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import repeat
from typing import Any

from django.core.handlers.exception import response_for_exception
from django.db.models import Avg, Count, Q
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.models import Scope
from apps.api import problems
from apps.api.fields import StrictSerializer
from apps.api.v1 import serializers as s
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Explanation
from apps.predictions import actions
from apps.predictions.models import Feedback, Prediction, Row
from apps.registry import serving
from apps.registry.models import ModelVersion
from apps.training.examples import random_example

_PROBLEM = OpenApiResponse(s.ProblemResult, description="A problem (RFC 9457).")
PROBLEMS = {
    (status, "application/problem+json"): _PROBLEM for status in (400, 401, 403, 404, 413, 415, 429, 503)
}


def _by_label(values: Any) -> dict[str, float]:
    return dict(zip(LABELS, values.tolist(), strict=True))


def explanation(explained: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON."""
    return {
        "intercept": _by_label(explained.intercepts),
        "adjustment": _by_label(explained.adjustments),
        "logit": _by_label(explained.logits),
        "spans": [
            {"begin": span.begin, "end": span.end, "contributions": _by_label(span.contributions)}
            for span in explained.spans
        ],
    }


class PredictView(APIView):
    """Score comments and return their labels.

    What comes before and after scoring is apart, so that requests can be answered together.
    """

    scope = Scope.PREDICT
    request_serializer: type[StrictSerializer] = s.PredictRequest

    @extend_schema(
        request=s.PredictRequest, responses={200: s.LabelsAnswer, **PROBLEMS}, operation_id="predict"
    )
    def post(self, request: Request) -> Response:
        (scored,) = actions.score_each(asked=[self.read(request)], source=Prediction.Source.API)
        return self.reply(scored)

    def read(self, request: Request) -> list[actions.Comment]:
        """Return the comments that are to be scored, and keep what else was asked.

        Raises:
            ValidationError: the request is not as documented.
        """
        self.asked = asked = self.request_serializer.read(request.data)
        self.texts = asked["texts"] if "texts" in asked else [asked["text"]]
        client, community, do_not_store = request.auth, asked["community"], asked["do_not_store"]
        ids = asked["external_ids"] or repeat("")
        return [
            actions.Comment(text, client, community, external_id, do_not_store)
            for text, external_id in zip(self.texts, ids, strict=False)
        ]

    def reply(self, scored: actions.Scored | Exception) -> Response:
        """Answer what `read` returned. Raises the error that came in place of scores."""
        if isinstance(scored, Exception):
            raise scored
        rows, served = scored
        results = [self.result(row, served.number) for row in rows]
        if self.asked.get("explain"):
            for text, result in zip(self.texts, results, strict=True):
                result["explanation"] = explanation(served.scorer.explain(text))
        return Response({"results": results} if "texts" in self.asked else results[0])

    def result(self, row: Row, version: int) -> dict[str, Any]:
        return {
            "id": row.id,
            "labels": row.labels,
            "is_toxic": row.is_toxic,
            "model_version": version,
        }


class PredictProbaView(PredictView):
    """Score comments and return labels and probabilities."""

    request_serializer = s.PredictProbaRequest

    @extend_schema(
        request=s.PredictProbaRequest,
        responses={200: s.ProbabilitiesAnswer, **PROBLEMS},
        operation_id="predict_proba",
    )
    def post(self, request: Request) -> Response:
        return super().post(request)

    def result(self, row: Row, version: int) -> dict[str, Any]:
        result = super().result(row, version)
        result["probabilities"] = probabilities = row.probabilities
        result["max_probability"] = max(probabilities.values())
        return result


def predict_together(requests: Sequence[HttpRequest], views: Sequence[PredictView]) -> list[HttpResponse]:
    """Answer each request as its view does, scoring and storing in one go."""
    begun = list(map(_begin, requests, views))
    asked = {place: comments for place, comments in enumerate(begun) if not isinstance(comments, Exception)}
    results: dict[int, Any]
    try:
        scored = actions.score_each(asked=list(asked.values()), source=Prediction.Source.API)
        results = dict(zip(asked, scored, strict=True))
    except Exception as error:
        results = dict.fromkeys(asked, error)
    return [
        _end(request, view, results.get(place, begun[place]))
        for place, (request, view) in enumerate(zip(requests, views, strict=True))
    ]


def _begin(request: HttpRequest, view: PredictView) -> list[actions.Comment] | Exception:
    """Do what `APIView.dispatch` does up to the scoring."""
    view.args, view.kwargs = (), {}
    view.request = view.initialize_request(request)
    view.headers = view.default_response_headers
    try:
        view.initial(view.request)
        return view.read(view.request)
    except Exception as error:
        return error


def _end(request: HttpRequest, view: PredictView, scored: actions.Scored | Exception) -> HttpResponse:
    """Do what `APIView.dispatch`, and Django around it, do from there on."""
    try:
        try:
            response = view.reply(scored)
        except Exception as error:
            response = view.handle_exception(error)
        return view.finalize_response(view.request, response).render()
    except Exception as error:
        return response_for_exception(request, error)


class PredictionView(APIView):
    """A stored prediction; a key sees its own, anonymous callers the anonymous ones."""

    scope = Scope.READ

    @extend_schema(responses={200: s.PredictionRecord, **PROBLEMS})
    def get(self, request: Request, pk: str) -> Response:
        prediction = problems.found(
            Prediction.objects.select_related("model_version"), pk=pk, client=request.auth
        )
        return Response(s.PredictionRecord(prediction).data)


class FeedbackView(APIView):
    """Say whether a prediction was right."""

    scope = Scope.FEEDBACK

    @extend_schema(request=s.FeedbackRequest, responses={201: s.FeedbackResult, **PROBLEMS})
    def post(self, request: Request) -> Response:
        serializer = s.FeedbackRequest(data=request.data)
        serializer.is_valid(raise_exception=True)
        said = serializer.validated_data
        prediction = problems.found(Prediction.objects.all(), pk=said["prediction_id"], client=request.auth)
        feedback = actions.give_feedback(
            prediction=prediction,
            is_right=said["is_right"],
            true_labels=said.get("labels"),
            remark=said["remark"],
            client=request.auth,
        )
        return Response(s.FeedbackResult(feedback).data, status=201)


class ExampleView(APIView):
    """A random comment to try: from an imported data set, else from a short list of our own."""

    scope = Scope.READ

    @extend_schema(responses={200: s.ExampleResult, **PROBLEMS})
    def get(self, request: Request) -> Response:
        text, source = random_example()
        return Response({"text": text, "source": source})


class ModelsView(APIView):
    """Every model version, newest first."""

    scope = Scope.READ

    @extend_schema(responses={200: s.ModelResult(many=True), **PROBLEMS})
    def get(self, request: Request) -> Response:
        return Response(s.ModelResult(ModelVersion.objects.all(), many=True).data)


class CurrentModelView(APIView):
    """The model in service."""

    scope = Scope.READ

    @extend_schema(responses={200: s.ModelResult, **PROBLEMS})
    def get(self, request: Request) -> Response:
        return Response(s.ModelResult(ModelVersion.objects.get(pk=serving.current().version_id)).data)


class StatsView(APIView):
    """The last hour in figures."""

    scope = Scope.READ

    @extend_schema(responses={200: s.StatsResult, **PROBLEMS})
    def get(self, request: Request) -> Response:
        since = timezone.now() - timedelta(hours=1)
        figures = Prediction.objects.filter(created_at__gte=since).aggregate(
            predictions=Count("pk"),
            toxic=Count("pk", filter=~Q(label_mask=0)),
            mean_latency_us=Avg("latency_us"),
        )
        mean = figures["mean_latency_us"]
        return Response(
            figures
            | {
                "mean_latency_us": None if mean is None else round(mean),
                "since": since,
                "model_version": serving.current().number,
                "feedback": Feedback.objects.filter(created_at__gte=since).count(),
            }
        )
