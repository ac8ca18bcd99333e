"""The methods AnalyzeComment and SuggestCommentScore of the Perspective API, without HTTP."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from django.conf import settings
from django.db import transaction

from apps.accounts.attribute_counts import count_unsupported
from apps.accounts.models import APIKey
from apps.api.perspective.attributes import (
    MAX_NAME,
    PROBABILITY,
    label_of,
    require_attribute_count,
    require_probability,
    select_labels,
    unknown_attribute,
    version_of,
)
from apps.api.perspective.exceptions import invalid_argument, language_not_supported
from apps.api.perspective.retries import find_suggestion, score_once
from apps.api.perspective.spans import find_sentences, utf16_length
from apps.api.problems import shorten
from apps.classifier import languages
from apps.classifier.labels import LABELS
from apps.core.batches import map_batch, map_groups
from apps.moderation import actions as moderation
from apps.moderation.exceptions import ModerationError
from apps.predictions import actions as predictions
from apps.predictions.models import LabelScores, Prediction
from apps.registry import serving

logger = logging.getLogger(__name__)

_SOURCE = Prediction.Source.PERSPECTIVE
_TEXT_TYPES = ("PLAIN_TEXT", "TEXT_TYPE_UNSPECIFIED")
_TRUE_FROM = 0.5  # a suggested score of at least this says that the label is true
# A comment in a language that the model doesn't read is scored if a label is at least as probable as this.
_CERTAIN_LABEL, _MIN_LETTERS = 0.95, 3
MAX_LANGUAGES, MAX_LANGUAGE_TAG = 20, 35  # RFC 5646, section 4.4.1, recommends to support 35 characters
# Characters that are stored
MAX_COMMUNITY, MAX_TOKEN, MAX_REMARK, MAX_TITLE, MAX_PARENT = 100, 200, 2_000, 300, 20_000
MAX_SPAN_SCORES = 100_000  # in a response
VERSION_HEADER, UNSUPPORTED_HEADER = "X-Model-Version", "X-Unsupported-Attributes"


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


def _detect_language(text: str, requested: Sequence[str], is_strict: bool) -> tuple[str, list[str]]:
    """Return the language of a comment, and the languages in which it can't be scored.

    A request that names languages is believed: the comment is scored if it names only languages that the
    model reads. If it names others too, the comment decides. A comment is scored in any case if the model is
    certain of a label.

    Args:
        is_strict: every language that the request names must be one that the model reads, as in Perspective.
    """
    scorer = serving.current().scorer
    supported = scorer.languages
    detection = languages.detect(text, supported, languages.HINT if requested else languages.HEAD)
    unsupported = [tag for tag in requested if languages.base_language(tag) not in supported]
    if is_strict and requested:
        return detection.language, unsupported
    if requested and not unsupported:
        return detection.language, []
    if not requested or len(unsupported) < len(requested):
        if detection.is_supported:
            return detection.language, []
        unsupported = [detection.language]
    readable_text = detection.readable_text
    if (
        sum(map(str.isalpha, readable_text)) >= _MIN_LETTERS
        and scorer.score(readable_text).max() >= _CERTAIN_LABEL
    ):
        return detection.language, []
    return detection.language, unsupported


@dataclass(frozen=True)
class AnalyzeRequest:
    """A valid AnalyzeCommentRequest.

    Attributes:
        labels: by attribute; only attributes that the model scores.
        unsupported: the other attributes that the request names.
        has_zeros: whether the response has the score 0 for the unsupported attributes.
        versions: by attribute `NAME@N`, the model version N, or the champion if the site has no such version.
        sentences: begin, end and text of each sentence that gets span scores.
    """

    message: dict[str, Any]
    key: APIKey | None
    text: str
    labels: dict[str, str]
    unsupported: list[str]
    has_zeros: bool
    versions: dict[str, serving.LoadedModel]
    detected_language: str
    sentences: list[tuple[int, int, str]]

    @property
    def span_score_count(self) -> int:
        """The largest number of span scores in the response."""
        return len(self.labels) * (len(self.sentences) or 1)

    @property
    def pinned_version(self) -> serving.LoadedModel | None:
        """The model version that all attributes name; None if they don't name the same one."""
        versions = (
            {self.versions[name] for name in self.labels}
            if self.labels.keys() == self.versions.keys()
            else ()
        )
        return next(iter(versions)) if len(versions) == 1 else None


def validate_analyze_request(message: dict[str, Any], key: APIKey | None) -> AnalyzeRequest:
    """Validate an AnalyzeCommentRequest.

    Raises:
        PerspectiveError: the request is invalid.
    """
    text = _validate_text(message)
    attributes = message.get("requestedAttributes", {})
    if not attributes:
        raise invalid_argument("Missing requested_attributes", "NO_REQUESTED_ATTRIBUTES")
    drop_unsupported = message.get("dropUnsupportedAttributes", False)
    is_strict = key is not None and key.refuse_unsupported
    has_zeros = key is not None and key.zero_unsupported
    labels, unsupported = select_labels(attributes, is_strict and not drop_unsupported)
    if unsupported and not labels and not (drop_unsupported or has_zeros):
        raise unknown_attribute(unsupported[0])
    _validate_context(message)
    requested = _validate_languages(message)
    detected, unsupported_languages = _detect_language(text, requested, is_strict)
    if unsupported_languages:
        if not drop_unsupported:
            raise language_not_supported(next(iter(attributes)), unsupported_languages, bool(requested))
        labels = {}
    if unsupported and key is not None:
        count_unsupported(key.pk, unsupported)
    sentences = find_sentences(text) if message.get("spanAnnotations") and labels else []
    request = AnalyzeRequest(
        message,
        key,
        text,
        labels,
        unsupported,
        has_zeros,
        {name: serving.pinned(number) for name in labels if (number := version_of(name)) is not None},
        detected,
        sentences if len(sentences) > 1 else [],
    )
    if request.span_score_count > MAX_SPAN_SCORES:
        raise invalid_argument(
            f"The request asks for {request.span_score_count} span scores, more than the {MAX_SPAN_SCORES} "
            "allowed: name fewer attributes or send a shorter comment."
        )
    return request


def score_and_store(requests: Sequence[AnalyzeRequest]) -> list[LabelScores | Exception]:
    """Score and store the comments of requests together.

    Returns:
        `results[i]` has the scores of `requests[i]`, or is the exception that prevented storing them.
    """
    results = [_moderate(request) or _to_comment(request) for request in requests]
    return map_batch(_score_comments, results, where=lambda result: isinstance(result, predictions.Comment))


def _score_comments(comments: Sequence[predictions.Comment]) -> list[LabelScores | Exception]:
    return map_groups(
        lambda comment: bool(comment.external_id),
        lambda has_token, group: score_once(group, _SOURCE) if has_token else _score_new(group),
        comments,
    )


def _score_new(comments: Sequence[predictions.Comment]) -> list[LabelScores | Exception]:
    results = predictions.score_batches(batches=[[comment] for comment in comments], source=_SOURCE)
    return [result if isinstance(result, Exception) else result[0][0] for result in results]


@dataclass(frozen=True)
class AnalyzeResponse:
    """An AnalyzeCommentResponse and its headers."""

    body: dict[str, Any]
    headers: dict[str, str]


def build_response(request: AnalyzeRequest, prediction: LabelScores) -> AnalyzeResponse:
    """Return the response to a scored request.

    The spans of an attribute are the sentences, or the whole text without `spanAnnotations`. If no score of
    an attribute reaches its `scoreThreshold`, the response leaves out the attribute, because clients expect a
    summary score in each attribute of a response.
    """
    parameters = request.message["requestedAttributes"]
    scores_by_version: dict[int | None, _VersionScores] = {}
    attribute_scores = {}
    for attribute, label in request.labels.items():
        version = request.versions.get(attribute)
        version_id = version.version_id if version else None
        if version_id not in scores_by_version:
            scores_by_version[version_id] = _score_version(request, prediction, version)
        scores = scores_by_version[version_id]
        threshold = parameters[attribute].get("scoreThreshold", float("-inf"))
        scores_of_attribute: dict[str, Any] = {}
        if span_scores := [
            {"begin": begin, "end": end, "score": _score(by_label[label])}
            for begin, end, by_label in scores.spans
            if by_label[label] >= threshold
        ]:
            scores_of_attribute["spanScores"] = span_scores
        if scores.summary[label] >= threshold:
            scores_of_attribute["summaryScore"] = _score(scores.summary[label])
        if scores_of_attribute:
            attribute_scores[attribute] = scores_of_attribute
    if request.has_zeros:
        span = {"begin": 0, "end": utf16_length(request.text), "score": _score(0.0)}
        zero = {"spanScores": [span], "summaryScore": _score(0.0)}
        attribute_scores |= dict.fromkeys(request.unsupported, zero)
    body = {
        "attributeScores": attribute_scores,
        "languages": request.message.get("languages") or [request.detected_language],
        "detectedLanguages": [request.detected_language],
    }
    if token := request.message.get("clientToken"):
        body["clientToken"] = token
    numbers = sorted({scores.number for scores in scores_by_version.values()})
    headers = {VERSION_HEADER: ", ".join(map(str, numbers))} if numbers else {}
    if request.unsupported:
        headers[UNSUPPORTED_HEADER] = ", ".join(
            quote(name[:MAX_NAME], safe="@") for name in request.unsupported
        )
    return AnalyzeResponse(body, headers)


class _VersionScores(NamedTuple):
    """The scores of a model version by label, for the whole text and for each span (begin, end, scores)."""

    number: int
    summary: dict[str, float]
    spans: list[tuple[int, int, dict[str, float]]]


def _score_version(
    request: AnalyzeRequest, prediction: LabelScores, version: serving.LoadedModel | None
) -> _VersionScores:
    """Return the scores of a pinned version, or for None those of the version that scored the prediction."""
    if version is None or version.version_id == prediction.model_version_id:
        number = serving.number_of(prediction.model_version_id)
        summary = prediction.probabilities
    else:
        number = version.number
        summary = dict(zip(LABELS, version.scorer.score(request.text).tolist(), strict=True))
    if not request.sentences:
        return _VersionScores(number, summary, [(0, utf16_length(request.text), summary)])
    scorer = (version or serving.pinned(number)).scorer
    rows = scorer.score_many([sentence for _, _, sentence in request.sentences], threads=1).tolist()
    spans = [
        (begin, end, dict(zip(LABELS, row, strict=True)))
        for (begin, end, _), row in zip(request.sentences, rows, strict=True)
    ]
    return _VersionScores(number, summary, spans)


def _to_comment(request: AnalyzeRequest) -> predictions.Comment:
    message = request.message
    return predictions.Comment(
        request.text,
        request.key,
        message.get("communityId", "")[:MAX_COMMUNITY],
        message.get("clientToken", "")[:MAX_TOKEN],
        message.get("doNotStore", False),
        request.pinned_version,
    )


def _to_context(message: Mapping[str, Any]) -> dict[str, str]:
    """Return the conversation for moderators: the article as title, and the comment's parent."""
    context = message.get("context", {})
    both = context.get("articleAndParentComment", {})
    title = both.get("article", {}).get("text", "")
    entries = [entry.get("text", "") for entry in context.get("entries", [])]
    parent = both.get("parentComment", {}).get("text", "") or next(filter(None, reversed(entries)), "")
    items = {"title": shorten(title, MAX_TITLE), "parent": shorten(parent, MAX_PARENT)}
    return {name: text for name, text in items.items() if text}


def _moderate(request: AnalyzeRequest) -> LabelScores | Exception | None:
    """Apply the policy to a comment; return None if its API key doesn't ask for it, or on a policy error."""
    comment = _to_comment(request)
    if comment.api_key is None or not comment.api_key.review_perspective or comment.do_not_store:
        return None
    try:
        return moderation.moderate(
            text=comment.text,
            api_key=comment.api_key,
            community=comment.community,
            external_id=comment.external_id,
            session_id=request.message.get("sessionId", "")[:MAX_TOKEN],
            context=_to_context(request.message),
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
    true. The same suggestion with the same client token is stored once a day.

    Raises:
        PerspectiveError: the request is invalid; nothing is stored.
    """
    text = _validate_text(message)
    suggested = message.get("attributeScores", {})
    if not suggested:
        raise invalid_argument("Missing attribute_scores")
    require_attribute_count(suggested)
    is_strict = key is not None and key.refuse_unsupported
    labels: dict[str, bool] = {}
    for attribute, scores in suggested.items():
        is_true = _suggested_truth(attribute, scores)
        label = label_of(attribute)
        if label is None and is_strict:
            raise unknown_attribute(attribute)
        if label is not None and is_true is not None:
            labels[label] = is_true
    _validate_context(message)
    requested = _validate_languages(message)
    detected, unsupported_languages = _detect_language(text, requested, is_strict)
    if unsupported_languages:
        raise language_not_supported(next(iter(suggested)), unsupported_languages, bool(requested))
    unsupported = [attribute for attribute in suggested if label_of(attribute) is None]
    if len(unsupported) == len(suggested):
        raise unknown_attribute(unsupported[0])
    if unsupported and key is not None:
        count_unsupported(key.pk, unsupported)
    token = message.get("clientToken", "")
    comment = predictions.Comment(
        text, key, message.get("communityId", "")[:MAX_COMMUNITY], token[:MAX_TOKEN]
    )
    values = ", ".join(
        f"{name} {scores.get('summaryScore', {}).get('value', 0):g}"
        for name, scores in sorted(suggested.items())
    )
    remark = f"Suggested: {values}"[:MAX_REMARK]
    with transaction.atomic():
        if not token or find_suggestion(comment, _SOURCE, labels, remark) is None:
            _store_suggestion(comment, labels, remark)
    response: dict[str, Any] = {"clientToken": token} if token else {}
    response["detectedLanguages"] = [detected]
    if requested:
        response["requestedLanguages"] = requested
    return response


def _store_suggestion(comment: predictions.Comment, labels: Mapping[str, bool], remark: str) -> None:
    (prediction,), _ = predictions.score(
        texts=[comment.text],
        source=_SOURCE,
        api_key=comment.api_key,
        community=comment.community,
        external_ids=[comment.external_id],
    )
    predictions.give_feedback(
        prediction=prediction,
        api_key=comment.api_key,
        is_right=all(prediction.labels[label] == is_true for label, is_true in labels.items()),
        true_labels=[label for label, is_true in labels.items() if is_true],
        known_labels=list(labels),
        remark=remark,
    )


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
