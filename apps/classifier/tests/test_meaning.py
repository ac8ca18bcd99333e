import re
import unicodedata
from collections import Counter, defaultdict

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from apps.classifier.labels import LABELS
from apps.classifier.meaning import FOLDER, LANGUAGES, PARTS, Part, Sentence, accuracies, load

SENTENCES: dict[Part, list[Sentence]] = {part: load(part) for part in PARTS}
ALL = SENTENCES["train"] + SENTENCES["test"]
PATTERNS = {sentence.pattern for sentence in ALL}


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", unicodedata.normalize("NFKD", text).casefold()))


def _is_divided(sentence: Sentence) -> bool:
    """Return whether a sentence belongs to the pairs that are divided into training and test."""
    return re.search(r"-\d+$", sentence.pair) is not None


def _pairs(language: str) -> set[str]:
    return {s.pair for s in ALL if s.language == language and _is_divided(s)}


def test_there_are_enough_sentences_and_patterns() -> None:
    assert sum(sentence.language == "en" for sentence in ALL) >= 3000
    assert len(PATTERNS) >= 40


def test_accuracies_are_sorted_and_count_both_kinds() -> None:
    sentences = [
        Sentence("a", "en", "good", "a1", ()),
        Sentence("b", "en", "good", "a1", ("toxic",)),
        Sentence("c", "en", "bad", "b1", ()),
        Sentence("d", "en", "bad", "b1", ("toxic", "threat")),
    ]
    assert list(accuracies(sentences, [False, True, True, True]).items()) == [("bad", 0.5), ("good", 1.0)]


def test_every_text_occurs_once() -> None:
    copies = Counter(_words(sentence.text) for sentence in ALL)
    assert not [" ".join(words) for words, count in copies.items() if count > 1]


def test_labels_include_toxic_if_any() -> None:
    for sentence in ALL:
        assert set(sentence.labels) <= set(LABELS), sentence
        assert not sentence.labels or "toxic" in sentence.labels, sentence


def test_pairs_consist_of_one_harmless_and_one_toxic_sentence() -> None:
    pairs = defaultdict(list)
    for sentence in ALL:
        pairs[sentence.language, sentence.pair].append(sentence)
    for key, pair in pairs.items():
        assert sorted(bool(sentence.labels) for sentence in pair) == [False, True], key
        assert len({sentence.pattern for sentence in pair}) == 1, key


def test_parts_share_no_pair() -> None:
    train, test = ({sentence.pair for sentence in SENTENCES[part]} for part in PARTS)
    assert not train & test


@pytest.mark.parametrize("part", PARTS)
def test_parts_are_halves_with_every_pattern_in_every_language(part: Part) -> None:
    divided = [sentence for sentence in SENTENCES[part] if _is_divided(sentence)]
    counts = Counter((sentence.pattern, sentence.language) for sentence in divided)
    assert set(counts) == {(pattern, language) for pattern in PATTERNS for language in LANGUAGES}
    assert 0.45 < len(divided) / sum(map(_is_divided, ALL)) < 0.55


def test_pairs_of_single_languages_are_for_training() -> None:
    assert sum(not _is_divided(sentence) for sentence in SENTENCES["train"]) > 13_000
    assert all(_is_divided(sentence) for sentence in SENTENCES["test"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_parts_contain_no_similar_sentences(language: str) -> None:
    train, test = (
        [" ".join(_words(sentence.text)) for sentence in SENTENCES[part] if sentence.language == language]
        for part in PARTS
    )
    vectorizer = CountVectorizer(binary=True, token_pattern=r"\S+").fit(train + test)
    rows, columns = vectorizer.transform(train), vectorizer.transform(test)
    common = (rows @ columns.T).toarray()
    union = rows.sum(axis=1) + columns.sum(axis=1).T - common
    assert not [(train[i], test[j]) for i, j in np.argwhere(common >= 0.7 * union)]


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_third_of_pairs_is_translated(language: str) -> None:
    english, translated = _pairs("en"), _pairs(language)
    assert translated <= english
    assert len(translated) >= 0.33 * len(english)


def test_readme_describes_every_pattern() -> None:
    patterns = (FOLDER / "README.md").read_text().split("## Patterns")[1]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", patterns, re.MULTILINE)) == PATTERNS
