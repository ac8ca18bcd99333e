"""What the two methods do, apart from HTTP."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.conf import settings
from django.db import transaction

from apps.accounts.models import APIKey
from apps.api.perspective import languages
from apps.api.perspective.attributes import PROBABILITY, check_count, check_score_type, label_of, scored
from apps.api.perspective.errors import invalid, language_not_supported
from apps.api.perspective.spans import sentences, utf16_length
from apps.classifier.labels import LABELS
from apps.moderation import actions as moderation
from apps.moderation.errors import ModerationError
from apps.predictions import actions as predictions
from apps.predictions.models import Prediction, Scores
from apps.registry import serving

logger = logging.getLogger(__name__)

_SOURCE = Prediction.Source.PERSPECTIVE
_PLAIN = ("PLAIN_TEXT", "TEXT_TYPE_UNSPECIFIED")
_TRUE_FROM = 0.5  # a suggested score from here on says that the label is true
MAX_LANGUAGES, MAX_LANGUAGE_TAG = 20, 35  # RFC 5646, section 4.4.1: longer tags are of no use
COMMUNITY_LENGTH, TOKEN_LENGTH, REMARK_LENGTH = 100, 200, 2_000


def _score(value: float) -> dict[str, Any]:
    # Perspective's scores are 32-bit floats: seven or eight digits.
    return {"value": np.float32(value), "type": PROBABILITY}


def _text(message: Mapping[str, Any]) -> str:
    comment = message.get("comment", {})
    text = comment.get("text", "")
    if not text:
        raise invalid("Comment must be non-empty.", "COMMENT_EMPTY")
    kind = comment.get("type", "PLAIN_TEXT")
    if kind == "HTML":
        raise invalid("Currently, only 'PLAIN_TEXT' comments are supported")
    if kind not in _PLAIN:
        raise invalid("Unknown text type")
    size = len(text) if text.isascii() else len(text.encode())
    if size > settings.MAX_COMMENT_BYTES:
        raise invalid(
            f"Comment text was too many bytes. Value ({size}) exceeded limit ({settings.MAX_COMMENT_BYTES}).",
            None,
        )
    return text


def _languages(message: Mapping[str, Any]) -> list[str]:
    requested = message.get("languages", [])
    if len(requested) > MAX_LANGUAGES:
        raise invalid(f"Too many languages: {len(requested)}. At most {MAX_LANGUAGES} may be named.")
    if unknown := [tag for tag in requested if len(tag) > MAX_LANGUAGE_TAG]:
        raise invalid(f"Unknown language: {unknown[0]}")
    return requested


def _check_context(message: Mapping[str, Any]) -> None:
    if {"entries", "articleAndParentComment"} <= message.get("context", {}).keys():
        raise invalid(
            "Context can have either entries or article_and_parent_comment, but both fields were populated."
        )


def _read_by_model(
    attributes: dict[str, str], requested: list[str], detected: str, drop: bool
) -> dict[str, str]:
    foreign = languages.unsupported(requested or [detected])
    if not foreign:
        return attributes
    if drop:
        return {}
    raise language_not_supported(next(iter(attributes)), foreign, bool(requested))


@dataclass(frozen=True)
class Asked:
    """An AnalyzeCommentRequest that may be answered."""

    message: dict[str, Any]
    key: APIKey | None
    text: str
    attributes: dict[str, str]  # those that the model answers, each with its label
    detected: str  # language
    sentences: list[tuple[int, int, str]]  # those that get spans of their own

    @property
    def span_count(self) -> int:
        """How many span scores the answer has at most."""
        return len(self.attributes) * (1 + len(self.sentences))


def check(message: dict[str, Any], key: APIKey | None) -> Asked:
    """Check an AnalyzeCommentRequest.

    Raises:
        PerspectiveError: the request is refused; nothing is stored.
    """
    text = _text(message)
    asked = message.get("requestedAttributes", {})
    if not asked:
        raise invalid("Missing requested_attributes", "NO_REQUESTED_ATTRIBUTES")
    drop = message.get("dropUnsupportedAttributes", False) or (key is not None and key.drop_unsupported)
    attributes = scored(asked, drop)
    _check_context(message)
    requested = _languages(message)
    detected = languages.detect(text, languages.HINT if requested else languages.HEAD)
    attributes = _read_by_model(attributes, requested, detected, drop)
    found = sentences(text) if message.get("spanAnnotations") and attributes else []
    return Asked(message, key, text, attributes, detected, found if len(found) > 1 else [])


def store(asked: Sequence[Asked]) -> list[Scores | Exception]:
    """Score and store comments; an error in place of one that could not be stored.

    Raises:
        NoModelError: no model is in service.
    """
    comments = [_comment(each) for each in asked]
    reviewed = [_reviewed(comment) for comment in comments]
    rest = [comment for comment, done in zip(comments, reviewed, strict=True) if done is None]
    scored_ = predictions.score_each(asked=[[comment] for comment in rest], source=_SOURCE)
    results = iter([each if isinstance(each, Exception) else each[0][0] for each in scored_])
    return [next(results) if done is None else done for done in reviewed]


def answer(checked: Asked, prediction: Scores) -> dict[str, Any]:
    """Return the AnalyzeCommentResponse.

    The span of the whole text always comes first; `spanAnnotations` adds one for each sentence. An attribute
    of which nothing reaches its `scoreThreshold` is left out, for clients take a summary score for granted.
    """
    message, text, attributes = checked.message, checked.text, checked.attributes
    asked = message["requestedAttributes"]
    probabilities = prediction.probabilities
    spans = [(0, utf16_length(text), probabilities)]
    if checked.sentences:
        served = serving.choose(prediction.text_hash)
        scores = served.scorer.score_many([sentence for _, _, sentence in checked.sentences], threads=1)
        spans += [
            (begin, end, dict(zip(LABELS, row, strict=True)))
            for (begin, end, _), row in zip(checked.sentences, scores.tolist(), strict=True)
        ]
    answers = {}
    for attribute, label in attributes.items():
        threshold = asked[attribute].get("scoreThreshold", float("-inf"))
        answered: dict[str, Any] = {}
        if reached := [
            {"begin": begin, "end": end, "score": _score(by_label[label])}
            for begin, end, by_label in spans
            if by_label[label] >= threshold
        ]:
            answered["spanScores"] = reached
        if probabilities[label] >= threshold:
            answered["summaryScore"] = _score(probabilities[label])
        if answered:
            answers[attribute] = answered
    response = {
        "attributeScores": answers,
        "languages": message.get("languages") or [checked.detected],
        "detectedLanguages": [checked.detected],
    }
    if message.get("clientToken"):
        response["clientToken"] = message["clientToken"]
    return response


def _comment(asked: Asked) -> predictions.Comment:
    message = asked.message
    return predictions.Comment(
        asked.text,
        asked.key,
        message.get("communityId", "")[:COMMUNITY_LENGTH],
        message.get("clientToken", "")[:TOKEN_LENGTH],
        message.get("doNotStore", False),
    )


def _reviewed(comment: predictions.Comment) -> Scores | Exception | None:
    """Score and store a comment through the policy and the queue; None where its key does not have it so."""
    if comment.client is None or not comment.client.review_perspective or comment.do_not_store:
        return None
    try:
        return moderation.moderate(
            text=comment.text,
            client=comment.client,
            community=comment.community,
            external_id=comment.external_id,
            is_shared_id=True,
            source=_SOURCE,
        ).submission.prediction
    except ModerationError as error:
        # The client came for a score and gets it; that nobody reviews is for the operator to see.
        logger.warning("A Perspective call was not put before the policy: %s", error)
        return None
    except Exception as error:
        return error


def suggest(message: dict[str, Any], key: APIKey | None) -> dict[str, Any]:
    """Return the SuggestCommentScoreResponse, after the suggestion was stored as feedback on our own score.

    A suggested score of 0.5 or more says that the label is true, less that it is false; labels that were not
    spoken of stay unknown. Scores of spans alone can only say that a label is true.

    Raises:
        PerspectiveError: the request is refused; nothing is stored.
    """
    text = _text(message)
    suggested = message.get("attributeScores", {})
    if not suggested:
        raise invalid("Missing attribute_scores")
    check_count(suggested)
    drop = key is not None and key.drop_unsupported
    said: dict[str, bool] = {}
    for attribute, scores in suggested.items():
        true = _suggested(attribute, scores)
        label = label_of(attribute)
        if label is None and not drop:
            raise invalid(f"Unknown requested attribute: {attribute}")
        if label is not None and true is not None:
            said[label] = true
    _check_context(message)
    requested = _languages(message)
    detected = languages.detect(text, languages.HINT if requested else languages.HEAD)
    _read_by_model(dict.fromkeys(suggested, ""), requested, detected, drop=False)
    token = message.get("clientToken", "")
    remark = ", ".join(
        f"{name} {scores.get('summaryScore', {}).get('value', 0):g}" for name, scores in suggested.items()
    )
    with transaction.atomic():
        scored_, _ = predictions.score(
            texts=[text],
            source=_SOURCE,
            client=key,
            community=message.get("communityId", "")[:COMMUNITY_LENGTH],
            external_ids=[token[:TOKEN_LENGTH]],
        )
        prediction = scored_[0]
        predictions.give_feedback(
            prediction=prediction,
            client=key,
            is_right=all(prediction.labels[label] == true for label, true in said.items()),
            true_labels=[label for label, true in said.items() if true],
            known_labels=list(said),
            remark=f"Suggested: {remark}"[:REMARK_LENGTH],
        )
    answer: dict[str, Any] = {"clientToken": token} if token else {}
    answer["detectedLanguages"] = [detected]
    if requested:
        answer["requestedLanguages"] = requested
    return answer


def _suggested(attribute: str, scores: dict[str, Any]) -> bool | None:
    """Return whether the scores say that the attribute is given, None where they leave it open."""
    spans = scores.get("spanScores", [])
    if "summaryScore" not in scores and not spans:
        raise invalid(f"Attribute {attribute} has neither a summary score nor span scores")
    if any("begin" not in span or "end" not in span for span in spans):
        raise invalid(f"Span scores of attribute {attribute} must have begin and end")
    values = [span.get("score", {}) for span in spans]
    if summary := scores.get("summaryScore"):
        values.append(summary)
    for score in values:
        check_score_type(attribute, score.get("type", PROBABILITY))
        if not 0 <= score.get("value", 0) <= 1:
            raise invalid(f"Score of attribute {attribute} is not between 0 and 1")
    if "summaryScore" in scores:
        return scores["summaryScore"].get("value", 0) >= _TRUE_FROM
    return True if any(score.get("value", 0) >= _TRUE_FROM for score in values) else None
