"""Requests that real clients send: what other clients of Perspective rely on, kind by kind."""

import json
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from apps.accounts.actions import create_api_key
from apps.accounts.attribute_counts import OTHERS, count_unsupported, store_counts
from apps.accounts.models import APIKey, UnsupportedAttribute
from apps.api.perspective import actions
from apps.api.perspective.spans import find_sentences
from apps.classifier import languages
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.core.permissions import SYSTEM
from apps.predictions.models import Prediction
from apps.registry import serving
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import register_copy
from toxicmod.testing.perspective import ANALYZE, IDIOT, analyze_request, post_json

pytestmark = pytest.mark.django_db

RUDE = "You are a stupid idiot."


def toxicity(response: Any) -> float:
    assert response.status_code == 200, response.content
    return response.json()["attributeScores"]["TOXICITY"]["summaryScore"]["value"]


def key_path(**options: Any) -> str:
    return f"{ANALYZE}?key={create_api_key(actor=SYSTEM, name='client', **options)[1]}"


@pytest.mark.parametrize(
    "score_type", ["probability", "Probability", "PROBABILITY", 1, "1", 0, "score_type_unspecified"]
)
def test_score_type_in_any_case_and_as_number(client: Client, score_type: Any) -> None:
    body = analyze_request(
        RUDE, requestedAttributes={"TOXICITY": {"scoreType": score_type, "scoreThreshold": 0}}
    )
    assert toxicity(post_json(client, body)) > 0.5


@pytest.mark.parametrize("score_type", ["percentile", 3, "3", 9, "raw", "ı"])
def test_other_score_type_is_an_error(client: Client, score_type: Any) -> None:
    body = analyze_request(RUDE, requestedAttributes={"TOXICITY": {"scoreType": score_type}})
    response = post_json(client, body)
    assert response.status_code == 400
    assert "is not supported by attribute TOXICITY" in response.json()["error"]["message"]


@pytest.mark.parametrize("text_type", ["plain_text", 1, 0])
def test_text_type_in_any_case_and_as_number(client: Client, text_type: Any) -> None:
    body = analyze_request() | {"comment": {"text": RUDE, "type": text_type}}
    assert toxicity(post_json(client, body)) > 0.5
    html = post_json(client, analyze_request() | {"comment": {"text": RUDE, "type": 2}})
    assert "PLAIN_TEXT" in html.json()["error"]["message"]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("fields=detected_languages", {"detectedLanguages"}),
        ("$fields=languages", {"languages"}),
        ("fields=attribute_scores(TOXICITY/summary_score)", {"attributeScores"}),
        ("fields=attribute_scores.TOXICITY.span_scores,client_token", {"attributeScores", "clientToken"}),
    ],
)
def test_fields_in_snake_case_and_with_dollar(client: Client, query: str, fields: set[str]) -> None:
    response = post_json(client, analyze_request(clientToken="c"), f"{ANALYZE}?{query}")
    assert set(response.json()) == fields


def test_fields_of_header_and_of_discovery(client: Client) -> None:
    response = post_json(client, analyze_request(), headers={"X-Goog-FieldMask": "languages"})
    assert set(response.json()) == {"languages"}
    document = client.get("/$discovery/rest", {"version": "v1alpha1", "fields": "rootUrl,servicePath"}).json()
    assert set(document) == {"rootUrl", "servicePath"}
    nested = client.get("/$discovery/rest", {"fields": "resources/comments/methods/analyze(path,httpMethod)"})
    methods = nested.json()["resources"]["comments"]["methods"]
    assert methods == {"analyze": {"path": "v1alpha1/comments:analyze", "httpMethod": "POST"}}
    assert client.get("/$discovery/rest", {"fields": "rootUrl/x"}).status_code == 400
    assert client.get("/$discovery/rest", {"fields": "nonsense"}).status_code == 400


@pytest.mark.parametrize("where", ["Authorization: Bearer", "access_token", "oauth_token"])
def test_unknown_token_is_unauthenticated(client: Client, where: str) -> None:
    if where.startswith("Authorization"):
        response = post_json(client, analyze_request(), headers={"Authorization": "Bearer wrong"})
    else:
        response = post_json(client, analyze_request(), f"{ANALYZE}?{where}=wrong")
    assert response.status_code == 401
    assert response.json()["error"]["status"] == "UNAUTHENTICATED"
    assert response["WWW-Authenticate"].startswith("Bearer")
    assert post_json(client, analyze_request(), f"{ANALYZE}?key=wrong").status_code == 400


@pytest.mark.parametrize(
    ("attribute", "label"),
    [
        ("OBSCENE", "obscene"),
        ("INFLAMMATORY", "toxic"),
        ("ATTACK_ON_AUTHOR", "insult"),
        ("ATTACK_ON_COMMENTER", "insult"),
        ("LIKELY_TO_REJECT", "toxic"),
        ("TOXICITY_FAST", "toxic"),
        ("THREAT_EXPERIMENTAL", "threat"),
    ],
)
def test_older_attributes_are_approximated(client: Client, attribute: str, label: str) -> None:
    scores = post_json(client, analyze_request(IDIOT, attribute)).json()["attributeScores"][attribute]
    expected = serving.current().scorer.score(IDIOT)[LABELS.index(label)]
    assert scores["summaryScore"]["value"] == pytest.approx(expected, rel=1e-6)


def test_unsupported_attributes_are_left_out_and_counted(client: Client) -> None:
    path = key_path()
    response = post_json(client, analyze_request(IDIOT, "TOXICITY", "FLIRTATION", "SPAM"), path)
    assert set(response.json()["attributeScores"]) == {"TOXICITY"}
    assert response["X-Unsupported-Attributes"] == "FLIRTATION, SPAM"
    for _ in range(2):
        store_counts()
    counts = UnsupportedAttribute.objects.values_list("attribute", "requests")
    assert set(counts) == {("FLIRTATION", 1), ("SPAM", 1)}
    post_json(client, analyze_request(IDIOT, "TOXICITY", "SPAM"), path)
    store_counts()
    assert UnsupportedAttribute.objects.get(attribute="SPAM").requests == 2


def test_response_without_unsupported_attributes_has_no_header(client: Client) -> None:
    assert "X-Unsupported-Attributes" not in post_json(client, analyze_request())


def test_unsupported_attribute_in_header_is_quoted(client: Client) -> None:
    response = post_json(client, analyze_request(IDIOT, "TOXICITY", "Ü\r\nX: 1"))
    assert response["X-Unsupported-Attributes"] == "%C3%9C%0D%0AX%3A%201"


def test_request_for_unsupported_attributes_only_is_an_error(client: Client) -> None:
    response = post_json(client, analyze_request(IDIOT, "FLIRTATION", "SPAM"), key_path())
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "Unknown requested attribute: FLIRTATION"


def test_key_refuses_unsupported_attributes(client: Client) -> None:
    response = post_json(
        client, analyze_request(IDIOT, "TOXICITY", "FLIRTATION"), key_path(refuse_unsupported=True)
    )
    assert response.json()["error"]["message"] == "Unknown requested attribute: FLIRTATION"
    assert not Prediction.objects.exists()


@pytest.mark.parametrize("attributes", [("TOXICITY", "FLIRTATION"), ("FLIRTATION",)])
def test_key_scores_unsupported_attributes_zero(client: Client, attributes: tuple[str, ...]) -> None:
    response = post_json(client, analyze_request(IDIOT, *attributes), key_path(zero_unsupported=True))
    scores = response.json()["attributeScores"]
    assert set(scores) == set(attributes)
    assert scores["FLIRTATION"]["summaryScore"] == {"value": 0, "type": "PROBABILITY"}
    assert scores["FLIRTATION"]["spanScores"][0]["end"] == len(IDIOT)
    assert response["X-Unsupported-Attributes"] == "FLIRTATION"


def test_names_of_unsupported_attributes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    key = create_api_key(actor=SYSTEM, name="client")[0]
    monkeypatch.setattr("apps.accounts.attribute_counts.MAX_ATTRIBUTES", 3)
    for number in range(5):
        count_unsupported(key.pk, [f"A{number}", f"A{number}"])
    store_counts()
    counts = dict(UnsupportedAttribute.objects.values_list("attribute", "requests"))
    assert counts == {"A0": 2, "A1": 2, "A2": 2, OTHERS: 4}


def test_admin_shows_unsupported_attributes_of_key(admin_client: Client) -> None:
    key = create_api_key(actor=SYSTEM, name="client")[0]
    UnsupportedAttribute.objects.create(api_key=key, attribute="<SPAM>", requests=412)
    page = admin_client.get(f"/admin/accounts/apikey/{key.pk}/change/").content.decode()
    assert "&lt;SPAM&gt;: 412 times" in page


def test_pinned_version_scores(client: Client, other_version: ModelVersion) -> None:
    champion, other = serving.current(), serving.pinned(other_version.number)
    assert other.number == other_version.number != champion.number
    name = f"TOXICITY@{other_version.number}"
    response = post_json(client, analyze_request(RUDE, name, spanAnnotations=True))
    expected = float(other.scorer.score(RUDE)[0])
    value = response.json()["attributeScores"][name]["summaryScore"]["value"]
    assert value == pytest.approx(expected, rel=1e-6)
    assert response["X-Model-Version"] == str(other.number)
    assert Prediction.objects.get().model_version_id == other.version_id
    response = post_json(client, analyze_request(RUDE, name, "TOXICITY", "TOXICITY@999999"))
    scores = response.json()["attributeScores"]
    assert scores[name]["summaryScore"]["value"] == pytest.approx(expected, rel=1e-6)
    assert scores["TOXICITY"] == scores["TOXICITY@999999"]
    assert response["X-Model-Version"] == ", ".join(sorted(map(str, (champion.number, other.number))))


def test_pinned_versions_are_bounded(champion: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_PINNED", 1)
    first, second = (register_copy(champion, name).number for name in ("first", "second"))
    model = serving.pinned(first)
    assert serving.pinned(first) is model
    assert serving.pinned(second).number == second
    assert list(serving._server._pinned) == [second]
    assert serving.pinned(first).number == first


def test_version_that_does_not_exist_is_looked_up_once(
    champion: ModelVersion, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(1):
        assert serving.pinned(10**8) is serving.current()
        assert serving.pinned(10**8) is serving.current()


@pytest.fixture
def other_version(champion: ModelVersion) -> ModelVersion:
    """A version whose probabilities differ from the champion's."""
    version = register_copy(champion)
    scorer = serving.pinned(version.number).scorer
    scorer.model.intercept[:] += 1.0
    return version


@pytest.mark.parametrize("tags", [["en", "fr"], ["fr", "en-GB"], ["EN", "de"], ["en_US"], ["en"]])
def test_request_that_names_english_is_scored(client: Client, tags: list[str]) -> None:
    response = post_json(client, analyze_request("you idiot", languages=tags))
    assert toxicity(response) > 0.9
    assert response.json()["languages"] == tags


@pytest.fixture
def english_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model reads English only, as with ENCODER=never."""
    monkeypatch.setattr(Scorer, "languages", ("en",))
    monkeypatch.setattr(Scorer, "_read", lambda scorer, text, first: None)


@pytest.mark.usefixtures("english_only")
def test_several_languages_and_comment_in_the_other_one(client: Client) -> None:
    french = "Je suis très content de vous voir aujourd'hui, mes amis."
    response = post_json(client, analyze_request(french, languages=["en", "fr"]))
    assert response.json()["error"]["message"] == "Attribute TOXICITY does not support request languages: fr"
    assert post_json(client, analyze_request(french, languages=["en"])).status_code == 200


@pytest.mark.usefixtures("english_only")
def test_key_that_refuses_needs_every_language(client: Client) -> None:
    body = analyze_request("you idiot", languages=["en", "fr"])
    response = post_json(client, body, key_path(refuse_unsupported=True))
    assert response.json()["error"]["message"].endswith("request languages: fr")


@pytest.mark.usefixtures("english_only")
@pytest.mark.parametrize("tags", [["fr"], ["xx", "id"], ["de"]])
def test_comment_with_certain_label_is_scored_in_any_language(client: Client, tags: list[str]) -> None:
    assert toxicity(post_json(client, analyze_request("you fucking idiot", languages=tags))) > 0.9
    assert post_json(client, analyze_request("hallo", languages=tags)).status_code == 400


@pytest.mark.parametrize(
    "text",
    [
        "уоu аrе аn іdіоt",
        "fuсk уоu",
        "gо tо hеll, ѕсum",
        "ｙｏｕ ｉｄｉｏｔ",
        "𝖞𝖔𝖚 𝖆𝖗𝖊 𝖆𝖓 𝖎𝖉𝖎𝖔𝖙",
        "y0u 4r3 4n 1d10t",
        "y o u  i d i o t",
        "ты idiot",
        "You are a fucking idiot and everybody hates you. Привет, как дела у вас сегодня?",
        "Привет, как дела у вас сегодня? You fucking idiot",
        "shuuuut uuuup yoooou stuuuupiiiid mooooroooon",
    ],
)
def test_obfuscated_english_is_scored(client: Client, text: str) -> None:
    assert toxicity(post_json(client, analyze_request(text))) > 0.8


@pytest.mark.parametrize(
    "text",
    [
        '"Ich bin ein Berliner" was said by Kennedy.',
        "spaghetti bolognese",
        "do re mi fa so la ti do",
        "Rio de Janeiro",
        "tutti frutti",
        "tikka masala",
        "c'est la vie",
        '"La vita è bella" is my favourite film',
        "HEY GIRL ! YOU GOT NO MANNER !",
        "naïve café-goers",
        "12345",
        "😀",
    ],
)
def test_english_with_foreign_words_is_scored(client: Client, text: str) -> None:
    response = post_json(client, analyze_request(text))
    assert response.status_code == 200
    assert response.json()["detectedLanguages"] == ["en"]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Είσαι πολύ ηλίθιος και κανείς δεν σε συμπαθεί εδώ μέσα.", "el"),
        ("אתה טיפש מאוד ואף אחד לא אוהב אותך כאן.", "he"),
        ("በጣም ደደብ ነህ እና እዚህ ማንም አይወድህም።", "am"),
        ("Bu yorum gerçekten çok kötü ve sen tam bir aptalsın, lütfen buradan git.", "tr"),
        ("Du er veldig dum, og ingen her liker deg.", "no"),
        ("Bạn thật ngu ngốc và không ai thích bạn ở đây cả.", "vi"),
        ("Nagyon hülye vagy, és itt senki sem kedvel téged.", "hu"),
        ("死ね", "ja"),
        ("闭嘴", "zh"),
        ("คุณโง่มาก", "th"),
        ("შენ სულელი ხარ", "ka"),
        ("ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ", "und"),
        ("Ти дурень і ніхто тебе тут не любить", "uk"),
        ("تو خیلی احمق هستی و هیچکس تو را دوست ندارد", "fa"),
    ],
)
@pytest.mark.usefixtures("english_only")
def test_comment_in_another_language_is_rejected(client: Client, text: str, language: str) -> None:
    error = post_json(client, analyze_request(text)).json()["error"]
    (detail,) = error["details"]
    assert detail["errorType"] == "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"
    assert detail["languageNotSupportedByAttributeError"]["detectedLanguages"] == [language]


@pytest.mark.parametrize(
    ("language", "rude", "polite"),
    [
        ("de", "Du bist ein Idiot und niemand mag dich hier", "Vielen Dank für diesen schönen Beitrag"),
        ("es", "Eres un idiota y nadie te quiere aquí", "Muchas gracias por este artículo tan bonito"),
        ("ru", "Ты дурак и никто тебя здесь не любит", "Спасибо за эту прекрасную статью"),
        ("zh", "你是个白痴，这里没有人喜欢你", "谢谢你写了这么好的文章"),
    ],
)
def test_languages_of_the_encoder_are_scored(client: Client, language: str, rude: str, polite: str) -> None:
    for named in ([language], ["en", language], []):
        response = post_json(client, analyze_request(rude, languages=named))
        assert response.json()["detectedLanguages"] == [language]
        assert toxicity(response) > 3 * toxicity(post_json(client, analyze_request(polite, languages=named)))


@pytest.mark.parametrize("text", ["lol", "eat", "k1ke", "hallo", "!!!", "ɑss", "fuuuuuck yooou"])
def test_short_and_obfuscated_comments_are_english(text: str) -> None:
    assert languages.detect(text, ("en", "de", "es", "ru", "zh", "ko"))[:2] == ("en", True)


@pytest.mark.parametrize(
    ("supported", "text", "expected"),
    [
        (("en", "de"), "Du bist ein Idiot und niemand mag dich hier", ("de", True)),
        (("en", "de"), "You are an idiot and nobody likes you", ("en", True)),
        (("en", "de"), "tu es un gros con et personne ne t'aime ici", ("fr", False)),
        (("en", "ru", "zh"), "Ты дурак и никто тебя не любит", ("ru", True)),
        (("en", "ru", "zh"), "闭嘴", ("zh", True)),
        (("de",), "You are an idiot and nobody likes you", ("en", False)),
        (("ja", "en"), "死ね", ("ja", True)),
    ],
)
def test_detect_works_for_any_list_of_languages(
    supported: tuple[str, ...], text: str, expected: tuple[str, bool]
) -> None:
    assert languages.detect(text, supported)[:2] == expected


def test_spans_are_sentences_only(client: Client) -> None:
    body = analyze_request("Hello world. You suck!", spanAnnotations=True)
    scores = post_json(client, body).json()["attributeScores"]["TOXICITY"]
    assert [(span["begin"], span["end"]) for span in scores["spanScores"]] == [(0, 12), (13, 22)]
    assert scores["spanScores"][0]["score"]["value"] < 0.1 < 0.9 < scores["spanScores"][1]["score"]["value"]


def test_spans_have_no_silent_limit(client: Client) -> None:
    text = "I like it. " * 130 + "You idiot."
    scores = post_json(client, analyze_request(text, spanAnnotations=True)).json()["attributeScores"][
        "TOXICITY"
    ]
    assert len(scores["spanScores"]) == 131
    assert scores["spanScores"][-1]["score"]["value"] > 0.9


def test_too_many_spans_are_an_error(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "MAX_SPAN_SCORES", 3)
    response = post_json(client, analyze_request("One. Two. Three. Four.", spanAnnotations=True))
    assert "4 span scores" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Smith is here, e.g. today.", ["Dr. Smith is here, e.g. today."]),
        ("He said etc. Then left.", ["He said etc.", "Then left."]),
        ("I met J. R. Tolkien. So do I. You?", ["I met J. R. Tolkien.", "So do I.", "You?"]),
        ("See No. 5 now. No. Never!", ["See No. 5 now.", "No.", "Never!"]),
        ("He is from the U.S. army. ok. yes", ["He is from the U.S. army.", "ok.", "yes"]),
        ("one\n\nDr.\ntwo", ["one", "Dr.", "two"]),
        ("Mr.", ["Mr."]),
    ],
)
def test_find_sentences_knows_abbreviations(text: str, sentences: list[str]) -> None:
    assert [sentence for _, _, sentence in find_sentences(text)] == sentences


@pytest.mark.parametrize(
    ("public_url", "host", "root"),
    [
        ("https://toxic.example.org", "toxic.example.org", "https://toxic.example.org/"),
        ("https://toxic.example.org:8443", "toxic.example.org", "https://toxic.example.org:8443/"),
        (
            "https://toxic.example.org",
            "commentanalyzer.googleapis.com",
            "https://commentanalyzer.googleapis.com/",
        ),
        ("https://toxic.example.org", "127.0.0.1:8000", "http://127.0.0.1:8000/"),
        ("https://toxic.example.org", "localhost:8000", "http://localhost:8000/"),
        ("", "commentanalyzer.googleapis.com", "http://commentanalyzer.googleapis.com/"),
    ],
)
def test_discovery_uses_public_url(
    client: Client, settings: Settings, public_url: str, host: str, root: str
) -> None:
    settings.PUBLIC_URL = public_url
    document = client.get("/$discovery/rest", headers={"Host": host}).json()
    assert document["rootUrl"] == document["baseUrl"] == root


@pytest.mark.parametrize(
    "context",
    [
        {"entries": [{"text": "first"}, {"text": "parent"}]},
        {"articleAndParentComment": {"article": {"text": "An article"}, "parentComment": {"text": "parent"}}},
        {"article_and_parent_comment": {"article": {"text": "An article"}}},
    ],
)
def test_context_in_both_forms(client: Client, context: dict[str, Any]) -> None:
    assert post_json(client, analyze_request(context=context)).status_code == 200


def test_version_header_is_exposed_to_browsers(client: Client, api_key: tuple[APIKey, str]) -> None:
    response = client.post(
        ANALYZE,
        json.dumps(analyze_request()),
        content_type="text/plain",
        headers={"Origin": "https://forum.example.org"},
    )
    assert response["X-Model-Version"] == str(serving.current().number)
    assert "X-Model-Version" in response["Access-Control-Expose-Headers"]
