"""The views of `/api/v1/` for predictions, feedback and models."""

from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Any

from django.core.handlers.exception import response_for_exception
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.models import Scope
from apps.api import problems
from apps.api.fields import StrictSerializer
from apps.api.v1.serializers import predictions as s
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Explanation
from apps.core.batches import map_batch, map_each
from apps.monitoring.selectors import recent_traffic
from apps.predictions import actions
from apps.predictions.models import Prediction, PredictionRow
from apps.registry import serving
from apps.registry.models import ModelVersion
from apps.training.examples import random_example

PROBLEM = OpenApiResponse(s.ProblemResult, description="An error (RFC 9457).")
PROBLEMS = {
    (status, "application/problem+json"): PROBLEM for status in (400, 401, 403, 404, 413, 415, 429, 503)
}


def _by_label(values: Any) -> dict[str, float]:
    return dict(zip(LABELS, values.tolist(), strict=True))


def serialize_explanation(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation in the format of `ExplanationResult`."""
    return {
        "intercept": _by_label(explanation.intercepts),
        "adjustment": _by_label(explanation.adjustments),
        "logit": _by_label(explanation.logits),
        "spans": [
            {"begin": span.begin, "end": span.end, "contributions": _by_label(span.contributions)}
            for span in explanation.spans
        ],
    }


class PredictView(APIView):
    """Score comments and return their labels.

    Scoring is separate from reading and responding so that `predict_batch` can score several requests.
    """

    scope = Scope.PREDICT
    request_serializer: type[StrictSerializer] = s.PredictRequest

    @extend_schema(
        request=s.PredictRequest, responses={200: s.LabelsAnswer, **PROBLEMS}, operation_id="predict"
    )
    def post(self, request: Request) -> Response:
        (result,) = actions.score_batches(batches=[self.read_comments(request)], source=Prediction.Source.API)
        return self.build_response(result)

    def read_comments(self, request: Request) -> list[actions.Comment]:
        """Return the request's comments; store its validated data for `build_response`.

        Raises:
            ValidationError: the request is invalid.
        """
        self.data = data = self.request_serializer.validated(request.data)
        self.texts = data["texts"] if "texts" in data else [data["text"]]
        api_key, community, do_not_store = request.auth, data["community"], data["do_not_store"]
        ids = data["external_ids"] or repeat("")
        return [
            actions.Comment(text, api_key, community, external_id, do_not_store)
            for text, external_id in zip(self.texts, ids, strict=False)
        ]

    def build_response(self, scored: actions.BatchResult | Exception) -> Response:
        """Return the response for the scored comments, or raise the exception that prevented scoring them."""
        if isinstance(scored, Exception):
            raise scored
        rows, loaded_model = scored
        results = [self.result(row, loaded_model.number) for row in rows]
        if self.data.get("explain"):
            for text, result in zip(self.texts, results, strict=True):
                result["explanation"] = serialize_explanation(loaded_model.scorer.explain(text))
        return Response({"results": results} if "texts" in self.data else results[0])

    def result(self, row: PredictionRow, version: int) -> dict[str, Any]:
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

    def result(self, row: PredictionRow, version: int) -> dict[str, Any]:
        result = super().result(row, version)
        result["probabilities"] = probabilities = row.probabilities
        result["max_probability"] = max(probabilities.values())
        return result


def predict_batch(requests: Sequence[HttpRequest], views: Sequence[PredictView]) -> list[HttpResponse]:
    """Handle each request with its view, but score and store the comments of all requests together."""
    batches = map_each(lambda pair: _prepare(*pair), zip(requests, views, strict=True))
    score = partial(actions.score_batches, source=Prediction.Source.API)
    results = map_batch(lambda batches: score(batches=batches), batches)
    return list(map(_finish, requests, views, results))


def _prepare(request: HttpRequest, view: PredictView) -> list[actions.Comment]:
    """Do what `APIView.dispatch` does before it calls the handler; return the comments to score."""
    view.args, view.kwargs = (), {}
    view.request = view.initialize_request(request)
    view.headers = view.default_response_headers
    view.initial(view.request)
    return view.read_comments(view.request)


def _finish(request: HttpRequest, view: PredictView, result: actions.BatchResult | Exception) -> HttpResponse:
    """Do what `APIView.dispatch` and Django's handler do after scoring."""
    try:
        try:
            response = view.build_response(result)
        except Exception as error:
            response = view.handle_exception(error)
        return view.finalize_response(view.request, response).render()
    except Exception as error:
        return response_for_exception(request, error)


class PredictionView(APIView):
    """A stored prediction. An API key can read its own predictions, an anonymous client anonymous ones."""

    scope = Scope.READ

    @extend_schema(responses={200: s.PredictionRecord, **PROBLEMS})
    def get(self, request: Request, pk: str) -> Response:
        prediction = problems.get_or_404(
            Prediction.objects.select_related("model_version"), pk=pk, api_key=request.auth
        )
        return Response(s.PredictionRecord(prediction).data)


class FeedbackView(APIView):
    """Say whether a prediction was right.

    Feedback that repeats the newest on a prediction is stored once and gets the first response again, so a
    request can be repeated. Other feedback replaces the former in training data; statistics count both.
    """

    scope = Scope.FEEDBACK

    @extend_schema(request=s.FeedbackRequest, responses={201: s.FeedbackResult, **PROBLEMS})
    def post(self, request: Request) -> Response:
        data = s.FeedbackRequest.validated(request.data)
        prediction = problems.get_or_404(
            Prediction.objects.all(), pk=data["prediction_id"], api_key=request.auth
        )
        feedback = actions.give_feedback(
            prediction=prediction,
            is_right=data["is_right"],
            true_labels=data.get("labels"),
            remark=data["remark"],
            api_key=request.auth,
        )
        return Response(s.FeedbackResult(feedback).data, status=201)


class ExampleView(APIView):
    """A random comment to try, from a built-in list."""

    scope = Scope.READ

    @extend_schema(responses={200: s.ExampleResult, **PROBLEMS})
    def get(self, request: Request) -> Response:
        return Response({"text": random_example(), "source": "built-in"})


class ModelsView(APIView):
    """Every model version, newest first.

    The Perspective-compatible API scores with a version that an attribute names, such as `TOXICITY@7`.
    """

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
    """Statistics of the current hour and the one before, from rollups that are updated every five minutes."""

    scope = Scope.READ

    @extend_schema(responses={200: s.StatsResult, **PROBLEMS})
    def get(self, request: Request) -> Response:
        traffic = recent_traffic()
        return Response(
            {
                "since": traffic.since,
                "predictions": traffic.predictions,
                "toxic": traffic.flagged,
                "mean_latency_us": traffic.mean_latency_us,
                "model_version": serving.current().number,
                "feedback": traffic.feedback,
            }
        )
