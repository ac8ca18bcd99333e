"""The methods AnalyzeComment and SuggestCommentScore of the Perspective API, without HTTP."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.conf import settings
from django.db import transaction

from apps.accounts.models import APIKey
from apps.api.perspective import languages
from apps.api.perspective.attributes import (
    PROBABILITY,
    label_of,
    require_attribute_count,
    require_probability,
    select_labels,
)
from apps.api.perspective.exceptions import invalid_argument, language_not_supported
from apps.api.perspective.spans import find_sentences, utf16_length
from apps.classifier.labels import LABELS
from apps.core.batches import map_batch
from apps.moderation import actions as moderation
from apps.moderation.exceptions import ModerationError
from apps.predictions import actions as predictions
from apps.predictions.models import LabelScores, Prediction
from apps.registry import serving

logger = logging.getLogger(__name__)

_SOURCE = Prediction.Source.PERSPECTIVE
_TEXT_TYPES = ("PLAIN_TEXT", "TEXT_TYPE_UNSPECIFIED")
_TRUE_FROM = 0.5  # a suggested score of at least this says that the label is true
MAX_LANGUAGES, MAX_LANGUAGE_TAG = 20, 35  # RFC 5646, section 4.4.1, recommends to support 35 characters
MAX_COMMUNITY, MAX_TOKEN, MAX_REMARK = 100, 200, 2_000  # characters that are stored


def _score(value: float) -> dict[str, Any]:
    # Perspective's scores are 32-bit floats, written with seven or eight digits.
    return {"value": np.float32(value), "type": PROBABILITY}


def _validate_text(message: Mapping[str, Any]) -> str:
    comment = message.get("comment", {})
    text = comment.get("text", "")
    if not text:
        raise invalid_argument("Comment must be non-empty.", "COMMENT_EMPTY")
    text_type = comment.get("type", "PLAIN_TEXT")
    if text_type == "HTML":
        raise invalid_argument("Currently, only 'PLAIN_TEXT' comments are supported")
    if text_type not in _TEXT_TYPES:
        raise invalid_argument("Unknown text type")
    size = len(text) if text.isascii() else len(text.encode())
    if size > settings.MAX_COMMENT_BYTES:
        raise invalid_argument(
            f"Comment text was too many bytes. Value ({size}) exceeded limit ({settings.MAX_COMMENT_BYTES}).",
            None,
        )
    return text


def _validate_languages(message: Mapping[str, Any]) -> list[str]:
    requested = message.get("languages", [])
    if len(requested) > MAX_LANGUAGES:
        raise invalid_argument(f"Too many languages: {len(requested)}. At most {MAX_LANGUAGES} may be named.")
    if unknown := [tag for tag in requested if len(tag) > MAX_LANGUAGE_TAG]:
        raise invalid_argument(f"Unknown language: {unknown[0]}")
    return requested


def _validate_context(message: Mapping[str, Any]) -> None:
    if {"entries", "articleAndParentComment"} <= message.get("context", {}).keys():
        raise invalid_argument(
            "Context can have either entries or article_and_parent_comment, but both fields were populated."
        )


def _select_attributes(
    attributes: dict[str, str], requested: list[str], detected: str, drop_unsupported: bool
) -> dict[str, str]:
    """Return the attributes, or none if the model can't read the languages.

    Raises:
        PerspectiveError: the model can't read the languages and `drop_unsupported` is false.
    """
    unsupported = languages.unsupported(requested or [detected])
    if not unsupported:
        return attributes
    if drop_unsupported:
        return {}
    raise language_not_supported(next(iter(attributes)), unsupported, bool(requested))


@dataclass(frozen=True)
class AnalyzeRequest:
    """A valid AnalyzeCommentRequest."""

    message: dict[str, Any]
    key: APIKey | None
    text: str
    labels: dict[str, str]  # by attribute; only attributes that the model scores
    detected_language: str
    sentences: list[tuple[int, int, str]]  # begin, end and text of each sentence that gets span scores

    @property
    def max_span_scores(self) -> int:
        """The largest number of span scores in the response."""
        return len(self.labels) * (1 + len(self.sentences))


def validate_analyze_request(message: dict[str, Any], key: APIKey | None) -> AnalyzeRequest:
    """Validate an AnalyzeCommentRequest.

    Raises:
        PerspectiveError: the request is invalid.
    """
    text = _validate_text(message)
    attributes = message.get("requestedAttributes", {})
    if not attributes:
        raise invalid_argument("Missing requested_attributes", "NO_REQUESTED_ATTRIBUTES")
    drop_unsupported = message.get("dropUnsupportedAttributes", False) or (
        key is not None and key.drop_unsupported
    )
    labels = select_labels(attributes, drop_unsupported)
    _validate_context(message)
    requested = _validate_languages(message)
    detected = languages.detect(text, languages.HINT if requested else languages.HEAD)
    labels = _select_attributes(labels, requested, detected, drop_unsupported)
    sentences = find_sentences(text) if message.get("spanAnnotations") and labels else []
    return AnalyzeRequest(message, key, text, labels, detected, sentences if len(sentences) > 1 else [])


def score_and_store(requests: Sequence[AnalyzeRequest]) -> list[LabelScores | Exception]:
    """Score and store the comments of requests together.

    Returns:
        `results[i]` has the scores of `requests[i]`, or is the exception that prevented storing them.
    """
    comments = [_to_comment(request) for request in requests]
    results = [_moderate(comment) or comment for comment in comments]
    return map_batch(_score_comments, results, where=lambda result: isinstance(result, predictions.Comment))


def _score_comments(comments: Sequence[predictions.Comment]) -> list[LabelScores | Exception]:
    results = predictions.score_batches(batches=[[comment] for comment in comments], source=_SOURCE)
    return [result if isinstance(result, Exception) else result[0][0] for result in results]


def build_response(request: AnalyzeRequest, prediction: LabelScores) -> dict[str, Any]:
    """Return the AnalyzeCommentResponse.

    The first span of an attribute is the whole text; `spanAnnotations` adds one for each sentence. If no
    score of an attribute reaches its `scoreThreshold`, the response leaves out the attribute, because clients
    expect a summary score in each attribute of a response.
    """
    parameters = request.message["requestedAttributes"]
    probabilities = prediction.probabilities
    spans = [(0, utf16_length(request.text), probabilities)]
    if request.sentences:
        loaded_model = serving.route(prediction.text_hash)
        scores = loaded_model.scorer.score_many([sentence for _, _, sentence in request.sentences], threads=1)
        spans += [
            (begin, end, dict(zip(LABELS, row, strict=True)))
            for (begin, end, _), row in zip(request.sentences, scores.tolist(), strict=True)
        ]
    attribute_scores = {}
    for attribute, label in request.labels.items():
        threshold = parameters[attribute].get("scoreThreshold", float("-inf"))
        scores_of_attribute: dict[str, Any] = {}
        if span_scores := [
            {"begin": begin, "end": end, "score": _score(by_label[label])}
            for begin, end, by_label in spans
            if by_label[label] >= threshold
        ]:
            scores_of_attribute["spanScores"] = span_scores
        if probabilities[label] >= threshold:
            scores_of_attribute["summaryScore"] = _score(probabilities[label])
        if scores_of_attribute:
            attribute_scores[attribute] = scores_of_attribute
    response = {
        "attributeScores": attribute_scores,
        "languages": request.message.get("languages") or [request.detected_language],
        "detectedLanguages": [request.detected_language],
    }
    if token := request.message.get("clientToken"):
        response["clientToken"] = token
    return response


def _to_comment(request: AnalyzeRequest) -> predictions.Comment:
    message = request.message
    return predictions.Comment(
        request.text,
        request.key,
        message.get("communityId", "")[:MAX_COMMUNITY],
        message.get("clientToken", "")[:MAX_TOKEN],
        message.get("doNotStore", False),
    )


def _moderate(comment: predictions.Comment) -> LabelScores | Exception | None:
    """Apply the policy to a comment; return None if its API key doesn't ask for it, or on a policy error."""
    if comment.api_key is None or not comment.api_key.review_perspective or comment.do_not_store:
        return None
    try:
        return moderation.moderate(
            text=comment.text,
            api_key=comment.api_key,
            community=comment.community,
            external_id=comment.external_id,
            is_shared_id=True,
            source=_SOURCE,
        ).submission.prediction
    except ModerationError as error:
        # The client still gets its scores; the operator has to correct the policy.
        logger.warning("The policy was not applied to a Perspective request: %s", error)
        return None
    except Exception as error:
        return error


def suggest(message: dict[str, Any], key: APIKey | None) -> dict[str, Any]:
    """Score the comment, store the suggested scores as feedback, and return the SuggestCommentScoreResponse.

    A suggested score of at least 0.5 says that the label is true, a lower one that it is false. Labels
    without a suggested score stay unknown. Span scores without a summary score can only say that a label is
    true.

    Raises:
        PerspectiveError: the request is invalid; nothing is stored.
    """
    text = _validate_text(message)
    suggested = message.get("attributeScores", {})
    if not suggested:
        raise invalid_argument("Missing attribute_scores")
    require_attribute_count(suggested)
    drop_unsupported = key is not None and key.drop_unsupported
    labels: dict[str, bool] = {}
    for attribute, scores in suggested.items():
        is_true = _suggested_truth(attribute, scores)
        label = label_of(attribute)
        if label is None and not drop_unsupported:
            raise invalid_argument(f"Unknown requested attribute: {attribute}")
        if label is not None and is_true is not None:
            labels[label] = is_true
    _validate_context(message)
    requested = _validate_languages(message)
    detected = languages.detect(text, languages.HINT if requested else languages.HEAD)
    _select_attributes(dict.fromkeys(suggested, ""), requested, detected, drop_unsupported=False)
    token = message.get("clientToken", "")
    remark = ", ".join(
        f"{name} {scores.get('summaryScore', {}).get('value', 0):g}" for name, scores in suggested.items()
    )
    with transaction.atomic():
        (prediction,), _ = predictions.score(
            texts=[text],
            source=_SOURCE,
            api_key=key,
            community=message.get("communityId", "")[:MAX_COMMUNITY],
            external_ids=[token[:MAX_TOKEN]],
        )
        predictions.give_feedback(
            prediction=prediction,
            api_key=key,
            is_right=all(prediction.labels[label] == is_true for label, is_true in labels.items()),
            true_labels=[label for label, is_true in labels.items() if is_true],
            known_labels=list(labels),
            remark=f"Suggested: {remark}"[:MAX_REMARK],
        )
    response: dict[str, Any] = {"clientToken": token} if token else {}
    response["detectedLanguages"] = [detected]
    if requested:
        response["requestedLanguages"] = requested
    return response


def _suggested_truth(attribute: str, scores: dict[str, Any]) -> bool | None:
    """Return whether the suggested scores say that the label is true; None if they don't say."""
    spans = scores.get("spanScores", [])
    if "summaryScore" not in scores and not spans:
        raise invalid_argument(f"Attribute {attribute} has neither a summary score nor span scores")
    if any("begin" not in span or "end" not in span for span in spans):
        raise invalid_argument(f"Span scores of attribute {attribute} must have begin and end")
    values = [span.get("score", {}) for span in spans]
    if summary := scores.get("summaryScore"):
        values.append(summary)
    for score in values:
        require_probability(attribute, score.get("type", PROBABILITY))
        if not 0 <= score.get("value", 0) <= 1:
            raise invalid_argument(f"Score of attribute {attribute} is not between 0 and 1")
    if "summaryScore" in scores:
        return scores["summaryScore"].get("value", 0) >= _TRUE_FROM
    return True if any(score.get("value", 0) >= _TRUE_FROM for score in values) else None
