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
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text)[0] == expected


@given(ANY)
def test_positions_are_valid_and_in_order(text: str) -> None:
    result, positions = normalise(text)
    assert len(result) == len(positions)
    assert all(0 <= p <= len(text) for p in positions)
    assert positions == sorted(positions)


@given(st.text("abcdefg ", max_size=40))
def test_zero_width_characters_change_nothing(text: str) -> None:
    assert normalise("\u200b".join(text))[0] == normalise(text)[0]


def test_long_words_are_cut() -> None:
    words = normalise("abcdefghij" * 2000)[0].split(" ")
    assert max(map(len, words)) == 40
    assert sum(map(len, words)) == 20_000


def test_table_is_the_one_models_were_made_with() -> None:
    assert table_sha256() == "fbf2dd14e3de6b4086a83ce949e8ccc249f6f6a1b258feaf39af9f4f951a868d"


def test_every_code_point_is_accepted() -> None:
    text = "".join(map(chr, range(0x110000)))
    assert np.all(np.diff(normalise(text)[1]) >= 0)
