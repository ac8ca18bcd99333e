"""Views of the public pages: check a comment, results, feedback, appeals, and the model page."""

from uuid import UUID

from django.core.signing import BadSignature
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.templatetags.static import static
from django.utils.cache import patch_cache_control
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST, require_safe

from apps.classifier.labels import LABELS
from apps.core.public_url import root_url
from apps.moderation import actions as moderation
from apps.moderation.exceptions import ModerationError
from apps.moderation.exports import statement_of_reasons
from apps.moderation.models import Decision, Policy
from apps.moderation.selectors import appeal_state
from apps.moderation.webhooks import APPEAL_DAYS, decision_of_token
from apps.pages import model_page, results
from apps.pages.errors import handle_unavailable, rate_limited
from apps.pages.forms import AppealForm, CommentForm, FeedbackForm
from apps.pages.visitors import get_visitor_token, set_visitor_cookie, visitor_id
from apps.predictions import actions
from apps.predictions.models import Feedback, Prediction
from apps.registry import serving
from apps.registry.models import Canary, ModelVersion
from apps.training.examples import random_example


def _policy() -> Policy | None:
    return Policy.objects.active_for("")


def _empty_result() -> results.Result:
    thresholds = serving.current().scorer.thresholds.tolist()
    return results.Result(
        verdict=None, bars=results.label_bars(None, _policy(), thresholds), segments=[], top_terms=[]
    )


def _score_unstored(text: str) -> results.Result:
    """Score a text without storing anything."""
    served = serving.current()
    probabilities = dict(zip(LABELS, served.scorer.score(text).tolist(), strict=True))
    return results.build_result(probabilities=probabilities, model=served, policy=_policy(), text=text)


@require_http_methods(["GET", "HEAD", "POST"])
@handle_unavailable
@rate_limited("POST")
def home(request: HttpRequest) -> HttpResponse:
    """Show the form; POST scores a comment. The result of a text that is not stored is shown only here."""
    if request.method == "POST":
        return _score(request)
    response = render(request, "pages/home.html", {"form": CommentForm(), "result": _empty_result()})
    # Unlike `never_cache`, this lets the browser restore the typed text when the visitor goes back.
    patch_cache_control(response, private=True, no_cache=True)
    return response


@never_cache
def _score(request: HttpRequest) -> HttpResponse:
    form = CommentForm(request.POST)
    if not form.is_valid():
        return render(request, "pages/home.html", {"form": form, "result": _empty_result()}, status=400)
    text, store = form.cleaned_data["text"], form.cleaned_data["store"]
    (prediction,), served = actions.score(texts=[text], source=Prediction.Source.PAGE, do_not_store=not store)
    if store:
        return redirect("pages:result", prediction.pk)
    result = results.build_result(
        probabilities=prediction.probabilities, model=served, policy=_policy(), text=text
    )
    context = {
        "form": form,
        "result": result,
        "prediction": prediction,
        "root_url": root_url(request),
        "feedback_form": FeedbackForm(),
    }
    response = render(request, "pages/home.html", context)
    set_visitor_cookie(request, response)
    return response


@require_POST
@handle_unavailable
@rate_limited("POST")
@never_cache
def live(request: HttpRequest) -> HttpResponse:
    """Score the text being typed and return the result's HTML. Nothing is stored."""
    form = CommentForm(request.POST)
    if not request.POST.get("text", "").strip():
        return render(request, "pages/_result.html", {"result": _empty_result()})
    if not form.is_valid():
        return JsonResponse({"error": form.errors["text"][0]}, status=400)
    return render(request, "pages/_result.html", {"result": _score_unstored(form.cleaned_data["text"])})


@require_GET
@handle_unavailable
@rate_limited("GET")
@never_cache
def example(request: HttpRequest) -> HttpResponse:
    """Return a random comment: as JSON for `site.js`, else as a page with the form filled in."""
    text = random_example()
    if request.accepts("text/html"):
        context = {
            "form": CommentForm(initial={"text": text}),
            "result": _score_unstored(text),
            "is_example": True,
        }
        return render(request, "pages/home.html", context)
    return JsonResponse({"text": text})


def _page_prediction(pk: UUID) -> Prediction:
    # Predictions that platforms requested through the API stay private even if their ids leak.
    predictions = Prediction.objects.filter(source=Prediction.Source.PAGE).select_related("model_version")
    return get_object_or_404(predictions, pk=pk)


def _result_page(
    request: HttpRequest, prediction: Prediction, form: FeedbackForm, status: int = 200
) -> HttpResponse:
    number = prediction.model_version.number
    loaded_model = serving.pinned(number)
    result = results.build_result(
        probabilities=prediction.probabilities,
        model=loaded_model,
        policy=_policy(),
        text=prediction.text,
        model_version=number,
    )
    token = get_visitor_token(request)
    feedback = Feedback.objects.filter(prediction=prediction)
    context = {
        "result": result,
        "prediction": prediction,
        "is_same_model": loaded_model.number == number,
        "root_url": root_url(request),
        "feedback_form": form,
        "feedback": token and feedback.filter(visitor=visitor_id(token, prediction.pk)).first(),
    }
    response = render(request, "pages/result.html", context, status=status)
    set_visitor_cookie(request, response)
    return response


@require_safe
@handle_unavailable
@never_cache
def result(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Show a result to anyone with its link: its scores, and its text if the author chose to save it."""
    return _result_page(request, _page_prediction(pk), FeedbackForm())


@require_POST
@handle_unavailable
@rate_limited("POST")
def feedback(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Store a visitor's feedback on a result; the newest feedback of each visitor counts."""
    prediction = _page_prediction(pk)
    form = FeedbackForm(request.POST)
    if not form.is_valid():
        return _result_page(request, prediction, form, 400)
    data = form.cleaned_data
    response = redirect("pages:result", prediction.pk)
    response["Location"] += "#feedback"
    token = set_visitor_cookie(request, response)
    actions.give_feedback(
        prediction=prediction,
        is_right=data["is_right"],
        true_labels=data["true_labels"],
        remark=data["remark"],
        visitor=visitor_id(token, prediction.pk),
    )
    return response


@require_http_methods(["GET", "HEAD", "POST"])
@handle_unavailable
@rate_limited("GET", "POST")
@never_cache
def appeal(request: HttpRequest, token: str) -> HttpResponse:
    """Show an author the decision, its reasons and the state of an appeal; POST creates the appeal."""
    try:
        decision_id = decision_of_token(token)
    except BadSignature:
        return render(request, "pages/appeal_invalid.html", {"days": APPEAL_DAYS}, status=404)
    decision = get_object_or_404(
        Decision.objects.select_related("submission__prediction", "rule", "policy", "model_version"),
        pk=decision_id,
        action=Decision.Action.REJECT,
    )
    form, status = AppealForm(), 200
    if request.method == "POST":
        form, status = AppealForm(request.POST), 400
        if form.is_valid():
            try:
                moderation.appeal(token=token, text=form.cleaned_data["text"])
                return redirect(request.path)
            except ModerationError as error:
                form.add_error(None, str(error))
                status = 409
    rejection, existing = appeal_state(decision)
    shown = rejection or decision
    context = {
        "decision": shown,
        "appeal": existing,
        "is_in_force": rejection is not None,
        "statement": statement_of_reasons(shown),
        "form": form,
    }
    return render(request, "pages/appeal.html", context, status=status)


@require_safe
@handle_unavailable
def model(request: HttpRequest, number: int | None = None) -> HttpResponse:
    """Show the quality and limits of a model version, by default of the champion."""
    served = serving.current()
    version = get_object_or_404(ModelVersion, number=served.number if number is None else number)
    is_served = version.pk == served.version_id
    canary = Canary.objects.running()
    context = {
        "version": version,
        "is_served": is_served,
        "champion_number": served.number,
        "canary": canary,
        "is_canary": canary is not None and canary.version_id == version.pk,
        "champion_share": 1 - canary.share if canary else 1.0,
        "metric_rows": model_page.metric_rows(version),
        "mean": version.metrics.get("mean"),
        "groups": model_page.group_scores(served.scorer, _policy()) if is_served else [],
        "languages": model_page.language_rows(served.scorer) if is_served else [],
        "card": model_page.card_html(version.card),
        "histories": model_page.histories(),
    }
    return render(request, "pages/model.html", context)


@require_safe
def favicon(request: HttpRequest) -> HttpResponse:
    """Redirect browsers that request `/favicon.ico`, as on the admin's pages, to the icon."""
    return redirect(static("pages/icon.svg"))
