"""The public pages: parse, act, reply."""

from contextlib import suppress
from uuid import UUID

from django.core.signing import BadSignature
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.templatetags.static import static
from django.utils.cache import patch_cache_control
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST, require_safe

from apps.classifier.labels import LABELS
from apps.moderation import actions as moderation
from apps.moderation.errors import ModerationError
from apps.moderation.exports import statement_of_reasons
from apps.moderation.models import Appeal, Decision, Policy
from apps.moderation.webhooks import APPEAL_DAYS, decision_of_token
from apps.pages import cards, results
from apps.pages.errors import helpful, limited
from apps.pages.forms import AppealForm, CommentForm, FeedbackForm
from apps.pages.visitors import mark, new_visitor, remember, visitor
from apps.predictions import actions
from apps.predictions.exceptions import FeedbackExistsError
from apps.predictions.models import Feedback, Prediction
from apps.registry import serving
from apps.registry.models import Canary, ModelVersion
from apps.training.examples import random_example


def _policy() -> Policy | None:
    return Policy.objects.active_for("")


def _nothing_yet() -> results.Result:
    thresholds = serving.current().scorer.thresholds.tolist()
    return results.Result(verdict=None, bars=results.bars(None, _policy(), thresholds), pieces=[], words=[])


def _score_unstored(text: str) -> results.Result:
    """Score a text with the champion and store nothing."""
    served = serving.current()
    probabilities = dict(zip(LABELS, served.scorer.score(text).tolist(), strict=True))
    return results.result(probabilities=probabilities, served=served, policy=_policy(), text=text)


@require_http_methods(["GET", "HEAD", "POST"])
@helpful
@limited("POST")
def home(request: HttpRequest) -> HttpResponse:
    """Try a comment. A text that is not to be stored is answered here and now, and then forgotten."""
    if request.method == "POST":
        return _score(request)
    response = render(request, "pages/home.html", {"form": CommentForm(), "result": _nothing_yet()})
    # Unlike never_cache this lets a browser that goes back keep what was typed.
    patch_cache_control(response, private=True, no_cache=True)
    return response


@never_cache
def _score(request: HttpRequest) -> HttpResponse:
    form = CommentForm(request.POST)
    if not form.is_valid():
        return render(request, "pages/home.html", {"form": form, "result": _nothing_yet()}, status=400)
    text, store = form.cleaned_data["text"], form.cleaned_data["store"]
    (prediction,), served = actions.score(texts=[text], source=Prediction.Source.PAGE, do_not_store=not store)
    if store:
        return redirect("pages:result", prediction.pk)
    result = results.result(
        probabilities=prediction.probabilities, served=served, policy=_policy(), text=text
    )
    context = {"form": form, "result": result, "prediction": prediction, "feedback_form": FeedbackForm()}
    return render(request, "pages/home.html", context)


@require_POST
@helpful
@limited("POST")
@never_cache
def live(request: HttpRequest) -> HttpResponse:
    """Score what is being typed and return the result's HTML. Nothing is stored."""
    form = CommentForm(request.POST)
    if not request.POST.get("text", "").strip():
        return render(request, "pages/_result.html", {"result": _nothing_yet()})
    if not form.is_valid():
        return JsonResponse({"error": form.errors["text"][0]}, status=400)
    return render(request, "pages/_result.html", {"result": _score_unstored(form.cleaned_data["text"])})


@require_GET
@helpful
@limited("GET")
@never_cache
def example(request: HttpRequest) -> HttpResponse:
    """Return a random comment: as JSON for the page's script, in the form for everybody else."""
    text, source = random_example()
    if request.accepts("text/html"):
        context = {
            "form": CommentForm(initial={"text": text}),
            "result": _score_unstored(text),
            "source": source,
        }
        return render(request, "pages/home.html", context)
    return JsonResponse({"text": text, "source": source})


def _page_prediction(pk: UUID) -> Prediction:
    # What platforms sent through the API is none of the public's business, even if an id leaks.
    predictions = Prediction.objects.filter(source=Prediction.Source.PAGE).select_related("model_version")
    return get_object_or_404(predictions, pk=pk)


def _result_page(
    request: HttpRequest, prediction: Prediction, form: FeedbackForm, status: int = 200
) -> HttpResponse:
    served = serving.current()
    is_same = served.version_id == prediction.model_version_id
    result = results.result(
        probabilities=prediction.probabilities,
        served=served,
        policy=_policy(),
        text=prediction.text if is_same else None,
        model_version=prediction.model_version.number,
    )
    word = visitor(request)
    given = word and Feedback.objects.filter(prediction=prediction, visitor=mark(word, prediction.pk)).first()
    context = {
        "result": result,
        "prediction": prediction,
        "is_same_model": is_same,
        "feedback_form": form,
        "given": given,
    }
    return render(request, "pages/result.html", context, status=status)


@require_safe
@helpful
@never_cache
def result(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Show a result to whoever has its link: its scores, and its text if the author had it stored."""
    return _result_page(request, _page_prediction(pk), FeedbackForm())


@require_POST
@helpful
@limited("POST")
def feedback(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Take a visitor's feedback on a result, once."""
    prediction = _page_prediction(pk)
    form = FeedbackForm(request.POST)
    if not form.is_valid():
        return _result_page(request, prediction, form, 400)
    said = form.cleaned_data
    word = visitor(request) or new_visitor()
    response = redirect("pages:result", prediction.pk)
    response["Location"] += "#feedback"
    remember(response, word)
    # Whoever has said it already is shown what they said the first time.
    with suppress(FeedbackExistsError):
        actions.give_feedback(
            prediction=prediction,
            is_right=said["is_right"],
            true_labels=said["true_labels"],
            remark=said["remark"],
            visitor=mark(word, prediction.pk),
        )
    return response


@require_http_methods(["GET", "HEAD", "POST"])
@helpful
@limited("GET", "POST")
@never_cache
def appeal(request: HttpRequest, token: str) -> HttpResponse:
    """Tell an author what was decided and why, take the appeal, and say what became of it."""
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
    current = decision.submission.current_decision()
    context = {
        "decision": decision,
        "appeal": Appeal.objects.filter(decision=decision).first(),
        "holds": current is not None and current.pk == decision.pk,
        "statement": statement_of_reasons(decision),
        "form": form,
    }
    return render(request, "pages/appeal.html", context, status=status)


@require_safe
@helpful
def model(request: HttpRequest, number: int | None = None) -> HttpResponse:
    """Tell what a version can and can't do, the served one by default."""
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
        "rows": cards.metric_rows(version),
        "mean": version.metrics.get("mean"),
        "groups": cards.group_figures(served.scorer, _policy()) if is_served else [],
        "card": cards.card_html(version.card),
        "histories": cards.histories(),
    }
    return render(request, "pages/model.html", context)


@require_safe
def favicon(request: HttpRequest) -> HttpResponse:
    """Lead browsers that guess the icon's address, as on the admin's pages, to the icon."""
    return redirect(static("pages/icon.svg"))
