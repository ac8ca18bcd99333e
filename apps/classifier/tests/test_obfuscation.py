import pytest

from apps.classifier.normalise import normalise
from apps.classifier.obfuscation import KINDS, obfuscate


@pytest.mark.parametrize("kind", KINDS)
def test_obfuscate_is_reproducible_and_changes_words(kind: str) -> None:
    texts = ["These stupid words are here for nothing", "a b", ""]
    one = obfuscate(texts, kind, share=1)
    assert one == obfuscate(texts, kind, share=1)
    assert one[0] != texts[0]
    assert one[1:] == texts[1:]
    assert obfuscate(texts, kind, share=0) == texts


@pytest.mark.parametrize("kind", ["homoglyphs", "invisible"])
def test_normalise_undoes_obfuscation(kind: str) -> None:
    text = "stupid and here, silly or funny"
    assert normalise(obfuscate([text], kind, share=0.4)[0])[0] == normalise(text)[0]
