"""The encoder that is shipped, and how the scorer combines it with the first level."""

import json
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from tokenizers import Tokenizer as ReferenceTokenizer

from apps.classifier import encoder
from apps.classifier.artifact import Artifact, ArtifactError
from apps.classifier.config import TrainingConfig
from apps.classifier.encoder import (
    FOLDER,
    HIGHEST_FIRST,
    TOKENIZER,
    Encoder,
    EncoderError,
    Mode,
    Tokenizer,
    length_factor,
)
from apps.classifier.labels import LABELS
from apps.classifier.reading import Head, fit_head
from apps.classifier.scorer import Scorer
from apps.classifier.training import TwoLevelModel

ENGLISH = "The committee discussed the weather and the new timetable of the buses in our town."
GERMAN = "Der Ausschuss sprach über das Wetter und den neuen Fahrplan der Busse in unserer Stadt."


@pytest.fixture(scope="session")
def reader() -> Encoder:
    return encoder.load(FOLDER)


@pytest.fixture(scope="session")
def artifact(fitted: TwoLevelModel, reader: Encoder) -> Artifact:
    head = Head(reader.sha256, np.tile([0.4, 0.6, -0.1], (len(LABELS), 1)), read_from=0.2)
    return replace(fitted, head=head).artifact(name="test")


def load(artifact: Artifact, reader: Encoder, mode: Mode) -> Scorer:
    return Scorer(*artifact.open(), reader, mode)


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH,
        GERMAN,
        "",
        "   spaces \t and\n\nlines",
        "Congratulations \N{PARTY POPPER}! Ａｆｔｅｒ ﬁve years\u2026 ½",
        "你们的服务真好，谢谢！",
        "오늘 날씨가 정말 좋네요",
        "Спасибо, это было очень полезно.",
        "مرحبا بكم جميعا",
        "Grüße aus Łódź, naïve coöperation",
        "a" * 500,
        "word " * 200,
    ],
)
def test_tokenizer_finds_the_pieces_of_the_library_that_wrote_its_file(text: str) -> None:
    content = (FOLDER / TOKENIZER).read_bytes()
    reference = ReferenceTokenizer.from_buffer(content)
    reference.enable_truncation(128)
    assert Tokenizer(content).encode(text, 128) == reference.encode(text).ids


def test_tokenizer_leaves_out_white_space_at_the_end() -> None:
    tokenizer = Tokenizer((FOLDER / TOKENIZER).read_bytes())
    assert tokenizer.encode(f"{ENGLISH} \n", 128) == tokenizer.encode(ENGLISH, 128)


def test_tokenizer_reads_names_of_special_pieces_as_text() -> None:
    tokenizer = Tokenizer((FOLDER / TOKENIZER).read_bytes())
    assert not {0, 2} & set(tokenizer.encode("<s> is struck out </s>", 128)[1:-1])


def test_logits_do_not_depend_on_the_other_texts(reader: Encoder) -> None:
    texts = [ENGLISH, "", "x" * 10_000, "\ud800", GERMAN]
    logits = reader.logits(texts)
    assert logits.shape == (5, len(LABELS))
    assert np.isfinite(logits).all()
    assert np.array_equal(logits[[4]], reader.logits([GERMAN]))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("1d10t", "idiot"),
        ("you are s t u p i d", "you are stupid"),
        ("fuuuuuck off", "fuck off"),
        ("you are an іdiot", "you are an idiot"),
        ("mor&#111;n", "moron"),
        ("i<b></b>d<b></b>i<b></b>o<b></b>t", "idiot"),
        ("i\nd\ni\no\nt", "idiot"),
        ("you fvck", "you fuck"),
        ("you are st\u200bupid", "you are stupid"),
        ("¡ʇoᴉpᴉ ɐ ǝɹɐ noʎ", "you are a idiot!"),
    ],
)
def test_obfuscated_texts_are_also_read_in_plain_letters(reader: Encoder, text: str, plain: str) -> None:
    assert encoder.variants(text)[1:] == [plain]
    logits = reader.logits([text, plain])
    assert np.all(logits[0] >= logits[1])
    assert logits[0, 0] > 0


@pytest.mark.parametrize(
    "text", [ENGLISH, GERMAN, "Ты дурак 100%", "très bien, mon ami", "10 Uhr", "a\n1 < 2"]
)
def test_other_texts_are_read_once(text: str) -> None:
    assert encoder.variants(text) == [text]


@pytest.mark.parametrize("name", [encoder.MANIFEST, encoder.GRAPH, encoder.TOKENIZER])
def test_damaged_or_missing_file(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(FOLDER, folder)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-20])
    with pytest.raises(EncoderError, match="restore"):
        Encoder(folder)
    (folder / name).unlink()
    with pytest.raises(EncoderError, match="restore"):
        Encoder(folder)


def test_encoder_of_another_format(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "encoder")
    path = tmp_path / "encoder" / encoder.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": encoder.FORMAT + 1}))
    with pytest.raises(EncoderError, match="another release"):
        Encoder(tmp_path / "encoder")


def test_never_scores_as_without_encoder(artifact: Artifact, reader: Encoder, scorer: Scorer) -> None:
    never = load(artifact, reader, Mode.NEVER)
    scores = never.rate([ENGLISH, GERMAN])
    assert np.array_equal(scores.probabilities, scorer.score_many([ENGLISH, GERMAN]))
    assert not scores.was_read.any()
    assert never.languages == ("en",)


def test_auto_reads_what_may_be_toxic_or_is_not_english(artifact: Artifact, reader: Encoder) -> None:
    auto = load(artifact, reader, Mode.AUTO)
    texts = [ENGLISH, GERMAN, "You are an idiot and everybody here knows that you are.", "ыыы"]
    assert auto.rate(texts).was_read.tolist() == [False, True, True, True]
    assert auto.languages[0] == "en"
    assert {"de", "es", "hi"} <= set(auto.languages)


def test_equal_texts_of_a_batch_are_read_once(
    artifact: Artifact, reader: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = load(artifact, reader, Mode.ALWAYS)
    expected = always.rate([GERMAN, ENGLISH]).probabilities[[0, 1, 0]]
    read: list[str] = []
    original = reader._read
    monkeypatch.setattr(reader, "_read", lambda text: read.append(text) or original(text))
    scores = always.rate([GERMAN, ENGLISH, GERMAN])
    assert np.array_equal(scores.probabilities, expected)
    assert scores.was_read.all()
    assert len(read) == 2


@pytest.mark.parametrize("text", [ENGLISH, "The idiot wrote that you are a stupid idiot and a stupid moron."])
def test_always_combines_both_levels(artifact: Artifact, reader: Encoder, text: str) -> None:
    first = load(artifact, reader, Mode.NEVER).score(text)
    scores = load(artifact, reader, Mode.ALWAYS).rate([text])
    counted = np.minimum(np.log(first / (1 - first)), HIGHEST_FIRST)
    expected = 0.4 * counted + 0.6 * reader.logits([text])[0] - 0.1
    assert scores.was_read.all()
    assert np.allclose(scores.probabilities[0], expit(expected))


def test_only_the_encoder_scores_other_languages(artifact: Artifact, reader: Encoder) -> None:
    slope, offset = reader.calibration("de")
    expected = expit(slope * reader.logits([GERMAN])[0] + offset)
    assert np.allclose(load(artifact, reader, Mode.AUTO).score(GERMAN), expected, rtol=0.05)


def test_threads_and_batches_agree(artifact: Artifact, reader: Encoder, comments) -> None:
    auto = load(artifact, reader, Mode.AUTO)
    texts = [GERMAN, *comments[0][4000:4100]]
    scores = auto.rate(texts, threads=1)
    assert np.array_equal(scores.probabilities, auto.score_many(texts, threads=2))
    assert np.array_equal(scores.probabilities[3], auto.score(texts[3]))


@pytest.mark.parametrize("text", ["You are an idiot. " * 20, "Du bist ein Idiot.", "", "!?", ENGLISH])
def test_explanation_sums_to_logits(artifact: Artifact, reader: Encoder, text: str) -> None:
    scorer = load(artifact, reader, Mode.ALWAYS)
    explanation = scorer.explain(text)
    total = explanation.intercepts + explanation.adjustments
    total = total + sum((span.contributions for span in explanation.spans), np.zeros(len(LABELS)))
    assert np.allclose(total, explanation.logits)
    assert np.allclose(expit(explanation.logits), scorer.score(text))


def test_explanation_of_a_read_comment_names_the_insult(artifact: Artifact, reader: Encoder) -> None:
    text = "Thank you for the cake, but you are an idiot and I will tell the others"
    spans = load(artifact, reader, Mode.ALWAYS).explain(text).spans
    worst = max(spans, key=lambda span: span.contributions[0])
    assert text[worst.begin : worst.end] == "idiot"


def test_explanation_orders_words_better_than_chance(artifact: Artifact, reader: Encoder, comments) -> None:
    """Deletion and insertion curves (Petsiuk et al., RISE, 2018)."""
    scorer = load(artifact, reader, Mode.ALWAYS)
    texts, labels = comments
    toxic = [text for text, row in zip(texts, labels, strict=True) if row[0] and 8 <= len(text.split()) <= 30]
    rng = np.random.default_rng(0)
    areas: defaultdict[str, list[float]] = defaultdict(list)
    for text in toxic[:15]:
        spans = scorer.explain(text).spans
        best = np.argsort([-span.contributions[0] for span in spans])
        for prefix, order in (("", best), ("random ", rng.permutation(len(spans)))):
            for name in ("deletion", "insertion"):
                curve = []
                for count in range(1, min(6, len(spans))):
                    selected = set(order[:count].tolist())
                    words = [
                        text[span.begin : span.end]
                        for index, span in enumerate(spans)
                        if (index in selected) == (name == "insertion")
                    ]
                    curve.append(" ".join(words))
                areas[prefix + name].append(float(scorer.score_many(curve)[:, 0].mean()))
    means = {name: np.mean(values) for name, values in areas.items()}
    assert means["deletion"] < means["random deletion"] - 0.15
    assert means["insertion"] > means["random insertion"] + 0.15


def test_load_with_another_encoder_scores_by_words(
    artifact: Artifact, scorer: Scorer, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = json.loads(artifact.manifest)
    manifest["encoder"]["sha256"] = "0" * 64
    other = Artifact(json.dumps(manifest).encode(), artifact.weights)
    assert np.array_equal(Scorer.load(other).score(GERMAN), scorer.score(GERMAN))
    assert "retrain the model" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"head": {}},
        {"head": {label: [1.0, 2.0] for label in LABELS}},
        {"head": {label: [1.0, 1e9, 0.0] for label in LABELS}},
        {"head": dict.fromkeys(LABELS, "abc")},
        {"read_from": 2},
        {"read_from": None},
        {"sha256": 5},
        {"more": 1},
    ],
)
def test_damaged_head(artifact: Artifact, change: dict[str, object]) -> None:
    manifest = json.loads(artifact.manifest)
    manifest["encoder"] |= change
    with pytest.raises(ArtifactError, match="encoder"):
        Artifact(json.dumps(manifest).encode(), artifact.weights).open()


def test_format_is_3_only_with_an_encoder(artifact: Artifact, fitted: TwoLevelModel) -> None:
    assert json.loads(artifact.manifest)["format_version"] == 3
    assert json.loads(fitted.artifact(name="test").manifest)["format_version"] == 1


@pytest.mark.parametrize(("words", "times"), [(5, 2), (100, 1)])
def test_obfuscated_text_is_read_twice_unless_it_is_long(
    reader: Encoder, monkeypatch: pytest.MonkeyPatch, words: int, times: int
) -> None:
    read: list[str] = []

    def record(text: str) -> np.ndarray:
        read.append(text)
        return np.zeros(len(LABELS))

    monkeypatch.setattr(reader, "_read", record)
    reader.logits(["y0u stup1d 1diot " * words])
    assert len(read) == times
    assert "you stupid idiot" in read[-1]


def test_fit_head_without_data_counts_both_levels_half() -> None:
    empty = np.zeros((0, len(LABELS)))
    head = fit_head("0", empty, empty, empty.astype(np.int8), np.zeros(0), np.zeros(0), TrainingConfig())
    assert np.array_equal(head.weights, np.tile([0.5, 0.5, 0.0], (len(LABELS), 1)))


def test_fit_head_finds_the_better_level_and_reads_what_may_be_toxic() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((20_000, len(LABELS))) < 0.2).astype(np.int8)
    good, bad = (3 * (labels - 0.5) + rng.normal(size=labels.shape) * noise for noise in (1, 4))
    config = TrainingConfig()
    characters = rng.integers(1, 1_000, len(labels))
    head = fit_head("0", bad, good, labels, np.ones(len(labels)), characters, config)
    assert np.all(head.weights[:, 1] > 5 * head.weights[:, 0])
    read = expit(bad).max(axis=1) >= head.read_from * length_factor(characters)
    assert characters[read].mean() < characters[~read].mean()
    assert read.mean() >= config.read_share - 0.001
    assert head.read_from <= config.max_read_from
    assert np.array_equal(head.combine(bad, good, characters)[~read], bad[~read])
