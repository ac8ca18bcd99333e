import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.classifier.normalise import normalise, table_sha256

ANY = st.text(st.characters(exclude_categories=())) | st.text("ab1 .*@!-'\n\u200bé", max_size=60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Hello,  World", "hello world"),
        ("y0u are  s t u p i d!", "you are stupid"),
        ("f.u.n.n.y and l-o-n-g", "funny and long"),
        ("Ｗｉｄｅ ﬁne", "wide fine"),
        ("ѕіllу", "silly"),
        ("z\u200be\u200br\u00ado", "zero"),
        ("É̵̀vil", "evil"),
        ("🅵🆄🅽", "fun"),
        ("$illy @pple b!ll", "silly apple bill"),
        ("s*lly s**ly sil**", "s*lly s**ly sil**"),
        ("don’t can't", "dont cant"),
        ("siiiiilly cooool", "silly cool"),
        ("born in 1999, 24 km", "born in 1999 24 km"),
        ("One. Two! Three", "one\ntwo\nthree"),
        ("\x00\ud800x", "x"),
        ("🇸🇭🇮🇹 and 🇸🇪🇽🇰", "and"),  # the flags of four countries
        ("🇸 🇭 🇮 🇹, 🇫🇺🇳", "shit fun"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text)[0] == expected


@given(ANY)
def test_normalise_offsets_are_valid_and_sorted(text: str) -> None:
    result, offsets = normalise(text)
    assert len(result) == len(offsets)
    assert all(0 <= p <= len(text) for p in offsets)
    assert offsets == sorted(offsets)


@given(st.text("abcdefg ", max_size=40))
def test_normalise_ignores_zero_width_characters(text: str) -> None:
    assert normalise("\u200b".join(text))[0] == normalise(text)[0]


def test_normalise_splits_long_words() -> None:
    words = normalise("abcdefghij" * 2000)[0].split(" ")
    assert max(map(len, words)) == 40
    assert sum(map(len, words)) == 20_000


def test_table_sha256_is_that_of_released_models() -> None:
    assert table_sha256() == "fbf2dd14e3de6b4086a83ce949e8ccc249f6f6a1b258feaf39af9f4f951a868d"


def test_normalise_accepts_every_code_point() -> None:
    text = "".join(map(chr, range(0x110000)))
    assert np.all(np.diff(normalise(text)[1]) >= 0)
