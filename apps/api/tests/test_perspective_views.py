"""The Perspective-compatible API against the recorded contract."""

import contextlib
import json
import logging
import time
from typing import Any
from unittest.mock import patch

import pytest
from django.db import OperationalError
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from pytest_django import Settings

from apps.accounts.actions import LOOKUP_SECONDS, create_api_key, revoke_api_key
from apps.accounts.models import APIKey
from apps.api.perspective import actions
from apps.api.perspective.attributes import LABEL_OF
from apps.api.perspective.exceptions import PerspectiveError
from apps.api.perspective.rendering import RESPONSE_FIELDS, parse_mask, select
from apps.api.perspective.spans import find_sentences, utf16_length
from apps.classifier import languages
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.core.permissions import SYSTEM
from apps.moderation.actions import install_default_policy
from apps.moderation.models import Policy, QueueItem
from apps.predictions.models import Feedback, Prediction
from apps.registry import serving
from apps.registry.actions import start_canary
from apps.registry.exceptions import NoModelError
from apps.registry.models import CanaryFailure, ModelVersion
from apps.training.examples import COMMENTS
from toxicmod.testing.factories import register_copy
from toxicmod.testing.perspective import ANALYZE, IDIOT, analyze_request, post_json

pytestmark = [pytest.mark.django_db, pytest.mark.database]

SUGGEST = "/v1alpha1/comments:suggestscore"
SERVICE_ERROR = "type.googleapis.com/google.commentanalyzer.v1alpha1.Error"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


def error_of(
    response: Any, code: int, message: str, details: Any = None, status: str = "INVALID_ARGUMENT"
) -> None:
    assert response.status_code == code, response.content
    assert response["Content-Type"] == "application/json; charset=UTF-8"
    expected: dict[str, Any] = {"code": code, "message": message, "status": status}
    if details is not None:
        expected["details"] = details
    assert response.json() == {"error": expected}
    # Google's order of members, two spaces and a closing newline.
    assert list(response.json()["error"]) == list(expected)
    assert response.content.decode() == json.dumps(response.json(), indent=2, ensure_ascii=False) + "\n"


def service(error_type: str, **more: Any) -> list[dict[str, Any]]:
    return [{"@type": SERVICE_ERROR, "errorType": error_type, **more}]


def test_analyze_matches_recorded_response(client: Client) -> None:
    request = (
        b'{"comment":{"text":"what kind of idiot name is foo?"},"languages":["en"],'
        b'"requestedAttributes":{"TOXICITY":{}},"doNotStore":true}'
    )
    response = post_json(client, request, f"{ANALYZE}?prettyPrint=false")
    assert response["Content-Type"] == "application/json; charset=UTF-8"
    value = response.json()["attributeScores"]["TOXICITY"]["summaryScore"]["value"]
    score = f'{{"value":{value!r},"type":"PROBABILITY"}}'
    assert response.content.decode() == (
        f'{{"attributeScores":{{"TOXICITY":{{"spanScores":[{{"begin":0,"end":31,"score":{score}}}],'
        f'"summaryScore":{score}}}}},"languages":["en"],"detectedLanguages":["en"]}}'
    )
    assert value == pytest.approx(serving.current().scorer.score(IDIOT)[0], rel=1e-6)
    assert len(repr(value).replace("0.", "").lstrip("0")) <= 9  # a 32-bit float's digits


def test_suggestscore_matches_recorded_response(client: Client) -> None:
    request = {
        "comment": {"text": "I loved it"},
        "attributeScores": {"TOXICITY": {"summaryScore": {"value": 0}}},
        "communityId": "/forum/movies",
        "clientToken": "c-1",
    }
    response = post_json(client, request, f"{SUGGEST}?prettyPrint=false")
    assert response.content == b'{"clientToken":"c-1","detectedLanguages":["en"]}'


@pytest.mark.parametrize("body", [b"", b"  \n", b"{}", b"null"])
def test_analyze_empty_body_is_empty_comment(client: Client, body: bytes) -> None:
    if body == b"null":
        assert post_json(client, body).status_code == 400
        return
    error_of(post_json(client, body), 400, "Comment must be non-empty.", service("COMMENT_EMPTY"))


@pytest.mark.parametrize(
    ("body", "message", "details"),
    [
        ({"comment": {"text": ""}}, "Comment must be non-empty.", service("COMMENT_EMPTY")),
        (
            analyze_request("x" * 20_992),
            "Comment text was too many bytes. Value (20992) exceeded limit (20480).",
            None,
        ),
        (
            analyze_request("é" * 10_241),
            "Comment text was too many bytes. Value (20482) exceeded limit (20480).",
            None,
        ),
        (
            {"comment": {"text": "a"}},
            "Missing requested_attributes",
            service("NO_REQUESTED_ATTRIBUTES"),
        ),
        (
            analyze_request("a", "SPICINESS"),
            "Unknown requested attribute: SPICINESS",
            service("INVALID_REQUEST"),
        ),
        (
            analyze_request("a", "SEXUALLY_EXPLICIT", "FLIRTATION"),
            "Unknown requested attribute: SEXUALLY_EXPLICIT",
            service("INVALID_REQUEST"),
        ),
        (
            {"comment": {"text": "a"}, "requestedAttributes": {"INSULT": {"scoreType": "PERCENTILE"}}},
            "Requested score type PERCENTILE is not supported by attribute INSULT",
            service("INVALID_REQUEST"),
        ),
        (
            {"comment": {"text": "a", "type": "HTML"}},
            "Currently, only 'PLAIN_TEXT' comments are supported",
            service("INVALID_REQUEST"),
        ),
        ({"comment": {"text": "a", "type": "RTF"}}, "Unknown text type", service("INVALID_REQUEST")),
        (
            analyze_request(
                "a",
                context={"entries": [{"text": "b"}], "articleAndParentComment": {"article": {"text": "c"}}},
            ),
            "Context can have either entries or article_and_parent_comment, but both fields were populated.",
            service("INVALID_REQUEST"),
        ),
        (
            analyze_request("halo", "INSULT", "TOXICITY", languages=["fi"]),
            "Attribute INSULT does not support request languages: fi",
            service(
                "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
                languageNotSupportedByAttributeError={"requestedLanguages": ["fi"], "attribute": "INSULT"},
            ),
        ),
        (
            analyze_request("Olen erittäin iloinen nähdessäni teidät täällä tänään, ystäväni."),
            "Attribute TOXICITY does not support request languages: fi",
            service(
                "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
                languageNotSupportedByAttributeError={"detectedLanguages": ["fi"], "attribute": "TOXICITY"},
            ),
        ),
        (
            analyze_request("a", "TOXICITY", nonsense=1) | {"comment": {"text": "a", "tekst": "b"}},
            "Invalid JSON payload received. Unknown name \"tekst\" at 'comment': Cannot find field.\n"
            'Invalid JSON payload received. Unknown name "nonsense": Cannot find field.',
            [
                {
                    "@type": BAD_REQUEST,
                    "fieldViolations": [
                        {
                            "field": "comment",
                            "description": 'Invalid JSON payload received. Unknown name "tekst" '
                            "at 'comment': Cannot find field.",
                        },
                        {
                            "description": 'Invalid JSON payload received. Unknown name "nonsense": '
                            "Cannot find field."
                        },
                    ],
                }
            ],
        ),
        (
            {"comment": {"text": 5}},
            "Invalid value at 'comment.text' (TYPE_STRING), 5",
            [
                {
                    "@type": BAD_REQUEST,
                    "fieldViolations": [
                        {
                            "field": "comment.text",
                            "description": "Invalid value at 'comment.text' (TYPE_STRING), 5",
                        }
                    ],
                }
            ],
        ),
    ],
)
def test_analyze_invalid_request_matches_recorded_error(
    client: Client, body: Any, message: str, details: Any
) -> None:
    error_of(post_json(client, body), 400, message, details)
    assert not Prediction.objects.exists()


@pytest.mark.parametrize(
    "body", [b"{", b'{"comment"}', b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"[]", b'"x"']
)
def test_analyze_invalid_json_is_bad_request(client: Client, body: bytes) -> None:
    response = post_json(client, body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].startswith("Invalid JSON payload received. ")
    assert error["details"][0]["@type"] == BAD_REQUEST


def test_analyze_rejects_large_body(client: Client) -> None:
    response = post_json(client, b'{"comment": {"text": "' + b"x" * 9_000_000 + b'"}}')
    assert response.status_code == 400
    assert response.json()["error"]["status"] == "INVALID_ARGUMENT"


def test_get_secret_reads_query_and_headers(
    client: Client, api_key: tuple[APIKey, str], settings: Settings
) -> None:
    settings.ANONYMOUS_API = False
    key, secret = api_key
    for number, (query, headers) in enumerate(
        [
            (f"?key={secret}", {}),
            ("", {"X-Goog-Api-Key": secret}),
            ("", {"Authorization": f"Bearer {secret}"}),
            ("", {"Authorization": f"Api-Key {secret}"}),
            (f"?access_token={secret}&quotaUser=u&$.xgafv=2&upload_protocol=raw&unknown=1&alt=json", {}),
        ],
        1,
    ):
        assert post_json(client, analyze_request(), ANALYZE + query, headers=headers).status_code == 200
        assert Prediction.objects.filter(api_key=key).count() == number
    key.refresh_from_db()
    assert key.last_used_at is not None


def test_analyze_invalid_key_is_rejected(client: Client, api_key: tuple[APIKey, str]) -> None:
    details = [
        {
            "@type": ERROR_INFO,
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
            "metadata": {"service": "commentanalyzer.googleapis.com"},
        }
    ]
    message = "API key not valid. Please pass a valid API key."
    for path in (f"{ANALYZE}?key=wrong", f"{SUGGEST}?key=wrong"):
        error_of(post_json(client, b"", path), 400, message, details)
    error_of(client.get("/$discovery/rest?version=v1alpha1&key=wrong"), 400, message, details)
    path = f"{ANALYZE}?key={api_key[1]}"
    assert post_json(client, analyze_request(), path).status_code == 200
    revoke_api_key(actor=SYSTEM, key=api_key[0])
    with patch.object(time, "monotonic", return_value=time.monotonic() + LOOKUP_SECONDS):
        error_of(post_json(client, analyze_request(), path), 400, message, details)


def test_analyze_missing_key_is_rejected(client: Client, settings: Settings) -> None:
    assert post_json(client, analyze_request()).status_code == 200
    settings.ANONYMOUS_API = False
    error_of(
        post_json(client, analyze_request()),
        403,
        "Method doesn't allow unregistered callers (callers without established identity). "
        "Please use API Key or other form of API consumer identity to call this API.",
        status="PERMISSION_DENIED",
    )
    assert client.get("/$discovery/rest?version=v1alpha1").status_code == 200


def test_analyze_key_without_scope_is_blocked(client: Client) -> None:
    _, secret = create_api_key(actor=SYSTEM, name="reader", scopes=["read"])
    for path in (ANALYZE, SUGGEST):
        response = post_json(client, analyze_request(), f"{path}?key={secret}")
        assert response.status_code == 403
        assert response.json()["error"]["details"][0]["reason"] == "API_KEY_SERVICE_BLOCKED"


@pytest.mark.usefixtures("frozen_time")
def test_analyze_quota_per_key_matches_recorded_error(client: Client) -> None:
    key, secret = create_api_key(actor=SYSTEM, name="slow", rate_per_minute=2)
    path = f"{ANALYZE}?key={secret}"
    assert [post_json(client, analyze_request(), path).status_code for _ in range(3)] == [200, 200, 429]
    response = post_json(client, analyze_request("b"), path)
    error_of(
        response,
        429,
        "Quota exceeded for quota metric 'Analysis requests (AnalyzeComment)' and limit 'Analysis requests "
        "(AnalyzeComment) per minute' of service 'commentanalyzer.googleapis.com' for consumer "
        f"'project_number:{key.pk}'.",
        [
            {
                "@type": ERROR_INFO,
                "reason": "RATE_LIMIT_EXCEEDED",
                "domain": "googleapis.com",
                "metadata": {
                    "service": "commentanalyzer.googleapis.com",
                    "consumer": f"projects/{key.pk}",
                    "quota_limit": "AnalyzeRequestsPerMinutePerProject",
                    "quota_limit_value": "2",
                    "quota_location": "global",
                    "quota_metric": "CommentAnalyzerService/analyze_requests",
                },
            },
            {
                "@type": "type.googleapis.com/google.rpc.Help",
                "links": [
                    {
                        "description": "Request a higher quota limit.",
                        "url": "https://cloud.google.com/docs/quota#requesting_higher_quota",
                    }
                ],
            },
        ],
        "RESOURCE_EXHAUSTED",
    )
    assert 1 <= int(response["Retry-After"]) <= 120
    assert post_json(client, analyze_request()).status_code == 200  # somebody else's


def test_analyze_accepts_all_names_of_attributes(client: Client) -> None:
    names = [*LABEL_OF, "TOXICITY@6", "INSULT_EXPERIMENTAL@2"]
    assert len(LABEL_OF) == 18
    answered = post_json(client, analyze_request(IDIOT, *names)).json()["attributeScores"]
    assert set(answered) == set(names)
    expected = dict(zip(LABELS, serving.current().scorer.score(IDIOT), strict=True))
    for name in names:
        label = LABEL_OF[name.split("@")[0]]
        assert answered[name]["summaryScore"]["value"] == pytest.approx(expected[label], rel=1e-6), name


def test_analyze_drops_unsupported_attributes(client: Client) -> None:
    body = analyze_request(IDIOT, "TOXICITY", "FLIRTATION", "SEXUALLY_EXPLICIT")
    answered = post_json(client, body | {"dropUnsupportedAttributes": True}).json()
    assert list(answered["attributeScores"]) == ["TOXICITY"]
    _, secret = create_api_key(actor=SYSTEM, name="strict", refuse_unsupported=True)
    path = f"{ANALYZE}?key={secret}"
    answered = post_json(client, body | {"dropUnsupportedAttributes": True}, path).json()
    assert list(answered["attributeScores"]) == ["TOXICITY"]
    answered = post_json(
        client,
        analyze_request("Tämä on todella kaunista")
        | {"languages": ["fi"], "dropUnsupportedAttributes": True},
    )
    assert answered.json()["attributeScores"] == {}


def test_analyze_accepts_proto3_json(client: Client) -> None:
    body = {
        "comment": {"text": IDIOT},
        "requested_attributes": {
            "TOXICITY": {"score_type": "PROBABILITY", "score_threshold": "0.5"},
            "THREAT": None,
        },
        "span_annotations": "false",
        "do_not_store": True,
        "client_token": "t",
        "session_id": "s",
        "community_id": None,
        "languages": "en",
    }
    plain = post_json(client, body, content_type="text/plain;charset=UTF-8")
    assert plain.status_code == 200, plain.content
    assert plain.json()["clientToken"] == "t"
    assert plain.json()["languages"] == ["en"]
    threshold = {
        "comment": {"text": IDIOT},
        "requestedAttributes": {"TOXICITY": {"scoreThreshold": {"value": 0.1}}},
    }
    form = post_json(client, threshold, content_type="application/x-www-form-urlencoded")
    assert form.json()["attributeScores"]["TOXICITY"] == plain.json()["attributeScores"]["TOXICITY"]


def test_analyze_score_threshold_omits_scores(client: Client) -> None:
    request = analyze_request(
        "You idiot. Thank you for the soup.", "TOXICITY", "THREAT", "INSULT", spanAnnotations=True
    )
    everything = post_json(client, request).json()["attributeScores"]
    for name, threshold in (("TOXICITY", 0), ("THREAT", 0.99), ("INSULT", 0.05)):
        request["requestedAttributes"][name] = {"scoreThreshold": threshold}
    answered = post_json(client, request).json()["attributeScores"]
    assert answered["TOXICITY"] == everything["TOXICITY"]
    assert "THREAT" not in answered
    for span in answered["INSULT"]["spanScores"]:
        assert span["score"]["value"] >= 0.05
    assert 0 < len(answered["INSULT"]["spanScores"]) < len(everything["INSULT"]["spanScores"])


def test_analyze_span_annotations_use_utf16_offsets(client: Client) -> None:
    text = "Hi 👩‍👩‍👧 there! You idïot\u0308. 🤬🤬 Shut up\nthanks"
    spans = post_json(client, analyze_request(text, spanAnnotations=True)).json()["attributeScores"][
        "TOXICITY"
    ]["spanScores"]
    units = text.encode("utf-16-le")
    pieces = [units[2 * span["begin"] : 2 * span["end"]].decode("utf-16-le") for span in spans]
    assert pieces == ["Hi 👩‍👩‍👧 there!", "You idïot\u0308.", "🤬🤬 Shut up", "thanks"]
    for piece, span in zip(pieces, spans, strict=True):
        assert span["score"]["value"] == pytest.approx(serving.current().scorer.score(piece)[0], rel=1e-5)


def test_analyze_spans_of_failing_canary_come_from_champion(
    client: Client, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.registry.serving.CHECK_SECONDS", 0.0)
    canary = register_copy(champion)
    start_canary(version=canary, share=0.5, reason="a trial", actor=SYSTEM)
    failing = serving.pinned(canary.number).scorer
    for name in ("rate", "score_many"):
        healthy = getattr(Scorer, name)

        def broken(scorer: Scorer, *args: Any, healthy: Any = healthy, **options: Any) -> Any:
            if scorer is failing:
                raise ZeroDivisionError
            return healthy(scorer, *args, **options)

        monkeypatch.setattr(Scorer, name, broken)
    for number in range(20):
        body = analyze_request(f"You idiot {number}. Thank you for the soup.", spanAnnotations=True)
        response = post_json(client, body)
        assert (response.status_code, response["X-Model-Version"]) == (200, str(champion.number))
    assert CanaryFailure.objects.filter(version=canary).exists()


def test_analyze_single_sentence_has_one_span(client: Client) -> None:
    for more in ({}, {"spanAnnotations": True}):
        answered = post_json(client, analyze_request("😀 idiot", **more)).json()["attributeScores"][
            "TOXICITY"
        ]
        assert [(span["begin"], span["end"]) for span in answered["spanScores"]] == [(0, 8)]
        assert answered["spanScores"][0]["score"] == answered["summaryScore"]


@pytest.mark.parametrize(
    "text",
    [
        "k",
        "lol",
        "wtf",
        "stfu",
        "go 2 hell",
        "fck u",
        "nigga plz",
        "no",
        "si",
        "123",
        "!!!",
        "😀",
        " ",
        "AAAA",
    ],
)
def test_analyze_scores_short_text_as_english(client: Client, text: str) -> None:
    answered = post_json(client, analyze_request(text)).json()
    assert answered["languages"] == answered["detectedLanguages"] == ["en"]
    assert 0 <= answered["attributeScores"]["TOXICITY"]["summaryScore"]["value"] <= 1


def test_analyze_returns_requested_and_detected_languages(client: Client) -> None:
    answered = post_json(
        client, analyze_request("Je suis très content de vous voir", languages=["en-GB"])
    ).json()
    assert answered["languages"] == ["en-GB"]
    assert answered["detectedLanguages"] == ["fr"]
    assert languages.detect("Это очень хорошая статья").language == "ru"


@pytest.mark.parametrize("is_quick", [True, False])
def test_probabilities_agree_with_py3langid(is_quick: bool) -> None:
    library = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    names = languages.PERSPECTIVE if is_quick else languages.ALL
    library.set_languages(names)
    decomposed = languages.find_probabilities("e\u0301te\u0301 " * 30, is_quick=is_quick)
    assert (decomposed == languages.find_probabilities("été " * 30, is_quick=is_quick)).all()
    texts = [
        *COMMENTS,
        "je suis très content de vous voir",
        "это очень хорошая статья",
        "das ist ein sehr guter artikel, über den man lange nachdenken kann",
        "これはとても良い記事です",
        "été " * 30,
    ]
    for text in texts:
        probabilities = languages.find_probabilities(text, is_quick=is_quick)
        language, confidence = library.classify(text[: languages.HEAD].lower())
        best = int(probabilities.argmax())
        assert names[best] == language, text
        assert probabilities[best] == pytest.approx(confidence, abs=0.01), text


@pytest.mark.parametrize("text", ["\ud800", "\u0130" * 300, "\U0001f600", "12345", ""])
def test_detect_accepts_any_text(text: str) -> None:
    assert languages.detect(text).is_supported


def test_analyze_stores_prediction(client: Client, api_key: tuple[APIKey, str]) -> None:
    request = analyze_request(
        IDIOT,
        communityId="c" * 300,
        clientToken="comment:7",
        sessionId="s",
        context={"entries": {"text": "x"}},
    )
    body = post_json(client, request, f"{ANALYZE}?key={api_key[1]}").json()
    stored = Prediction.objects.get()
    assert (stored.source, stored.text, stored.api_key, stored.community) == (
        "perspective",
        IDIOT,
        api_key[0],
        "c" * 100,
    )
    assert stored.external_id == "comment:7"
    assert stored.toxic == pytest.approx(
        body["attributeScores"]["TOXICITY"]["summaryScore"]["value"], rel=1e-6
    )


def test_analyze_replaces_unstorable_characters(client: Client) -> None:
    response = post_json(
        client, b'{"comment":{"text":"a\\u0000b \\ud83d idiot"},"requestedAttributes":{"TOXICITY":{}}}'
    )
    assert response.status_code == 200
    assert Prediction.objects.get().text == "a\ufffdb \ufffd idiot"


def test_analyze_do_not_store_leaves_no_text(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    install_default_policy()
    _, secret = create_api_key(actor=SYSTEM, name="reviewed", review_perspective=True)
    caplog.set_level(logging.DEBUG)
    text = "I will find you and kill you, zxqv idiot"
    assert (
        post_json(client, analyze_request(text, doNotStore=True), f"{ANALYZE}?key={secret}").status_code
        == 200
    )
    assert Prediction.objects.get().text is None
    assert not QueueItem.objects.exists()
    with patch.object(actions.languages, "detect", side_effect=RuntimeError(text)):
        assert (
            post_json(client, analyze_request(text, doNotStore=True)).json()["error"]["status"] == "INTERNAL"
        )
    assert "RuntimeError" in caplog.text
    assert "zxqv" not in caplog.text


def test_analyze_applies_policy_for_review_perspective_key(client: Client) -> None:
    _, secret = create_api_key(actor=SYSTEM, name="reviewed", review_perspective=True)
    path = f"{ANALYZE}?key={secret}"
    assert post_json(client, analyze_request(), path).status_code == 200  # without a policy: scored only
    install_default_policy()
    policy = Policy.objects.active_for("")
    policy.rules.filter(label="toxic").update(reject_from=None, review_from=0.5)
    policy.rules.exclude(label="toxic").update(reject_from=None, review_from=None)
    answer = post_json(client, analyze_request(communityId="cats"), path)
    item = QueueItem.objects.get(submission__community="cats")
    stored = item.submission.prediction
    assert (stored.text, stored.source, stored.api_key.name) == (IDIOT, "perspective", "reviewed")
    assert answer.json()["attributeScores"]["TOXICITY"]["summaryScore"]["value"] == pytest.approx(
        stored.toxic
    )
    post_json(client, analyze_request(communityId="cats"))  # without the key: no item
    assert QueueItem.objects.count() == 1


def test_suggestscore_stores_feedback_on_named_labels(client: Client, api_key: tuple[APIKey, str]) -> None:
    request = {
        "comment": {"text": IDIOT},
        "context": {"entries": [{"text": "{}"}]},
        "attributeScores": {
            "TOXICITY": {"summaryScore": {"value": 1}},
            "THREAT": {"summaryScore": {"value": 0, "type": "PROBABILITY"}},
            "INSULT": {"spanScores": [{"begin": 0, "end": 9, "score": {"value": 0.1}}]},
        },
        "languages": ["en"],
        "communityId": "Coral:https://example.org",
        "clientToken": "comment:17",
    }
    response = post_json(client, request, f"{SUGGEST}?key={api_key[1]}")
    assert response.json() == {
        "clientToken": "comment:17",
        "detectedLanguages": ["en"],
        "requestedLanguages": ["en"],
    }
    feedback = Feedback.objects.get()
    assert feedback.true_labels == {"toxic": True, "threat": False}
    assert feedback.is_right
    assert feedback.api_key == api_key[0]
    stored = feedback.prediction
    assert (stored.text, stored.external_id, stored.community) == (
        IDIOT,
        "comment:17",
        "Coral:https://example.org",
    )


@pytest.mark.parametrize(
    "scores",
    [
        None,
        {},
        {"TOXICITY": {}},
        {"SPICINESS": {"summaryScore": {"value": 1}}},
        {"TOXICITY": {"summaryScore": {"value": 1.5}}},
        {"TOXICITY": {"summaryScore": {"value": 1, "type": "RAW"}}},
        {"TOXICITY": {"spanScores": [{"begin": 1, "score": {"value": 1}}]}},
        {"TOXICITY": {"spanScores": [{"begin": 1.5, "end": 2, "score": {"value": 1}}]}},
    ],
)
def test_suggestscore_rejects_malformed_scores(client: Client, scores: Any) -> None:
    response = post_json(client, {"comment": {"text": "a"}, "attributeScores": scores}, SUGGEST)
    assert response.status_code == 400
    assert response.json()["error"]["status"] == "INVALID_ARGUMENT"
    assert not Feedback.objects.exists()


def test_analyze_fields_selects_partial_response(client: Client) -> None:
    mask = "attributeScores(TOXICITY/summaryScore/value,*/spanScores/begin),languages"
    path = f"{ANALYZE}?prettyPrint=false&fields={mask}"
    body = post_json(client, analyze_request(IDIOT, "TOXICITY", "INSULT"), path).json()
    assert list(body) == ["attributeScores", "languages"]
    assert list(body["attributeScores"]["TOXICITY"]["summaryScore"]) == ["value"]
    assert body["attributeScores"]["INSULT"] == {"spanScores": [{"begin": 0}]}
    assert post_json(client, analyze_request(), f"{ANALYZE}?fields=*").json()["languages"] == ["en"]
    for wrong in ("attributeScore", "languages/x", "a(b", "a)", ",", "languages,", "(", "a b"):
        response = post_json(client, analyze_request(), f"{ANALYZE}?fields={wrong}")
        assert response.status_code == 400, wrong
        assert response.json()["error"]["message"] == "Request contains an invalid argument."


@given(mask=st.text(alphabet="ab*/.,()", max_size=12))
def test_parse_mask_accepts_or_rejects_any_text(mask: str) -> None:
    names = {"a": "attributeScores", "b": "summaryScore"}
    spelt = "".join(names.get(letter, letter) for letter in mask)
    with contextlib.suppress(PerspectiveError):
        tree = parse_mask(spelt)
        select({"attributeScores": {"T": {"summaryScore": {"value": 1}}}}, tree)


def test_json_response_pretty_print_and_callback(client: Client) -> None:
    response = post_json(client, analyze_request())
    pretty = response.content.decode()
    assert response["Content-Length"] == str(len(response.content))
    assert pretty.startswith(
        '{\n  "attributeScores": {\n    "TOXICITY": {\n      "spanScores": [\n        {\n'
    )
    assert (
        json.loads(pretty)
        == post_json(client, analyze_request(), f"{ANALYZE}?prettyPrint=false&alt=media").json()
    )
    script = post_json(client, analyze_request(), f"{ANALYZE}?callback=app.on_score")
    assert script["Content-Type"] == "text/javascript; charset=UTF-8"
    assert script.content.startswith(b"// API callback\napp.on_score({")
    unsafe = post_json(client, analyze_request(), f"{ANALYZE}?callback=alert(1)//")
    assert unsafe["Content-Type"] == "application/json; charset=UTF-8"


def test_urls_accept_encoded_colon_and_reject_other_paths(client: Client) -> None:
    assert post_json(client, analyze_request(), "/v1alpha1/comments%3Aanalyze").status_code == 200
    for response in (
        client.get(ANALYZE),
        post_json(client, analyze_request(), "/v1alpha1/comments:guess"),
        client.get("/batch"),
    ):
        error_of(response, 404, "Method not found.", status="NOT_FOUND")


def test_discovery_matches_recorded_document(client: Client, settings: Settings) -> None:
    for path in (
        "/$discovery/rest?version=v1alpha1",
        "/%24discovery/rest",
        "/discovery/v1/apis/commentanalyzer/v1alpha1/rest",
    ):
        document = client.get(path, headers={"host": "scores.example.org:8443"}, secure=True).json()
        assert document["rootUrl"] == document["baseUrl"] == "https://scores.example.org:8443/"
    contract = settings.BASE_DIR.parent / "shared/contracts/perspective-discovery.json"
    if contract.exists():
        for part in ("schemas", "resources", "parameters", "batchPath"):
            assert document[part] == json.loads(contract.read_text())[part]
    assert client.get("/$discovery/rest?version=v2").status_code == 404
    answer = document["schemas"]["AnalyzeCommentResponse"]["properties"]
    suggested = document["schemas"]["SuggestCommentScoreResponse"]["properties"]
    assert set(RESPONSE_FIELDS) == set(answer) | set(suggested)


def test_cors_allows_all_origins_for_perspective_paths_only(client: Client) -> None:
    origin = {"Origin": "https://forum.example.org"}
    preflight = client.options(
        ANALYZE,
        headers=origin
        | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-goog-api-key",
        },
    )
    assert preflight.status_code == 200
    assert preflight["Access-Control-Allow-Origin"] == "*"
    assert "x-goog-api-key" in preflight["Access-Control-Allow-Headers"]
    assert "POST" in preflight["Access-Control-Allow-Methods"]
    for response in (
        post_json(client, analyze_request(), headers=origin),
        post_json(client, b"{", headers=origin),
    ):
        assert response["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in response
    assert "Access-Control-Allow-Origin" not in client.get("/api/v1/models", headers=origin)


def test_cors_allowed_origins_restricts_origins(client: Client, settings: Settings) -> None:
    settings.CORS_ALLOW_ALL_ORIGINS = False
    settings.CORS_ALLOWED_ORIGINS = ["https://forum.example.org"]
    allowed = post_json(client, analyze_request(), headers={"Origin": "https://forum.example.org"})
    assert allowed["Access-Control-Allow-Origin"] == "https://forum.example.org"
    assert "Access-Control-Allow-Origin" not in post_json(
        client, analyze_request(), headers={"Origin": "https://evil.example.org"}
    )


def test_analyze_outage_returns_unavailable(client: Client) -> None:
    with patch.object(actions.predictions, "score_batches", side_effect=OperationalError("secret words")):
        response = post_json(client, analyze_request())
    error_of(response, 503, "The service is currently unavailable.", status="UNAVAILABLE")
    assert response["Retry-After"] == "5"
    with patch.object(actions.predictions, "score_batches", side_effect=NoModelError("none")):
        assert post_json(client, analyze_request()).status_code == 503


NAMES = st.sampled_from(
    [
        *("comment", "text", "type", "context", "entries", "article", "languages", "spanAnnotations"),
        *("requestedAttributes", "requested_attributes", "attributeScores", "TOXICITY", "INSULT@1", "X"),
        *("scoreThreshold", "scoreType", "summaryScore", "spanScores", "value", "begin", "end"),
        *("doNotStore", "dropUnsupportedAttributes", "clientToken", "detectedLanguages"),
    ]
)
ODD_TEXT = st.text(max_size=60) | st.text(alphabet="a.!? \n😀👩‍👧é\u0308\ud83d\0ß", max_size=30)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | ODD_TEXT
    | st.sampled_from(["en", "PROBABILITY", "HTML"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | ODD_TEXT, inner, max_size=4),
    max_leaves=8,
)
WELL_FORMED = st.fixed_dictionaries(
    {
        "comment": st.fixed_dictionaries({"text": ODD_TEXT}),
        "requestedAttributes": st.dictionaries(
            st.sampled_from([*LABEL_OF]), st.none() | st.just({}), min_size=1
        ),
    },
    optional={
        "spanAnnotations": st.booleans(),
        "doNotStore": st.booleans(),
        "clientToken": ODD_TEXT,
        "communityId": ODD_TEXT,
        "languages": st.lists(st.sampled_from(["en", "en-US", "fr"]), max_size=2),
        "dropUnsupportedAttributes": st.booleans(),
    },
)


@pytest.mark.parametrize("path", [ANALYZE, SUGGEST])
@hypothesis_settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=VALUES | st.dictionaries(NAMES, VALUES, max_size=5) | WELL_FORMED)
def test_views_any_json_returns_result_or_error(client: Client, path: str, body: Any) -> None:
    response = post_json(client, body, path)
    answered = json.loads(response.content)
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.content
        error = answered["error"]
        assert error["code"] == response.status_code
        assert error["message"]
        assert error["status"]
    elif path == ANALYZE:
        assert set(answered) <= {"attributeScores", "languages", "detectedLanguages", "clientToken"}
        text = body["comment"]["text"].encode("utf-16-le", "surrogatepass")
        for scores in answered["attributeScores"].values():
            assert 0 <= scores["summaryScore"]["value"] <= 1
            assert scores["spanScores"]
            for span in scores["spanScores"]:
                assert 0 <= span["begin"] < span["end"] <= len(text) // 2
                for at in (span["begin"], span["end"]):  # never between surrogates
                    before, after = text[2 * at - 2 : 2 * at], text[2 * at : 2 * at + 2]
                    assert not (is_high(before) and is_low(after))


def is_high(unit: bytes) -> bool:
    return len(unit) == 2 and 0xD8 <= unit[1] <= 0xDB


def is_low(unit: bytes) -> bool:
    return len(unit) == 2 and 0xDC <= unit[1] <= 0xDF


@given(text=st.text(max_size=200) | st.text(alphabet="ab.!? \n\t…。😀é\u0308", max_size=60))
def test_find_sentences_returns_ordered_parts(text: str) -> None:
    units = text.encode("utf-16-le", "surrogatepass")
    last = 0
    for begin, end, sentence in find_sentences(text):
        assert last <= begin < end <= utf16_length(text)
        assert units[2 * begin : 2 * end].decode("utf-16-le", "surrogatepass") == sentence
        last = end
