import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.classifier.scorer import Scorer
from apps.classifier.training import TwoLevelModel

ANY = st.text(st.characters(exclude_categories=()))


def test_score_many_agrees_with_scikit_learn(fitted: TwoLevelModel, scorer: Scorer, comments) -> None:
    texts = comments[0][4000:]
    assert np.abs(scorer.score_many(texts) - fitted.predict_proba(texts)).max() < 1e-5


def test_score_many_agrees_with_threads_and_single_scores(scorer: Scorer, comments) -> None:
    texts = comments[0][3000:]
    many = scorer.score_many(texts, threads=1)
    assert np.array_equal(many, scorer.score_many(texts, threads=2))
    with ThreadPoolExecutor(4) as pool:
        assert np.array_equal(many, np.array(list(pool.map(scorer.score, texts))))


@pytest.mark.parametrize(
    "text", ["", "\x00", "\ud800", "x" * 20_480, "ab" * 10_240, "ﷺ" * 5000, "! " * 10_000, "\n"]
)
def test_score_accepts_any_text(scorer: Scorer, text: str) -> None:
    for p in (scorer.score(text), scorer.score_many([text, "a", text])[2]):
        assert p.shape == (6,)
        assert np.all((p > 0) & (p < 1))
    assert np.isclose(_total(scorer, text), scorer.explain(text).logits).all()


def _total(scorer: Scorer, text: str) -> np.ndarray:
    explanation = scorer.explain(text)
    return (
        explanation.intercepts
        + explanation.adjustments
        + sum((s.contributions for s in explanation.spans), np.zeros(6))
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=ANY)
def test_explain_sums_to_logits(scorer: Scorer, text: str) -> None:
    explanation = scorer.explain(text)
    assert np.allclose(_total(scorer, text), explanation.logits, atol=1e-9)
    assert np.allclose(1 / (1 + np.exp(-explanation.logits)), scorer.score(text), atol=1e-12)
    edges = [edge for span in explanation.spans for edge in (span.begin, span.end)]
    assert edges == sorted(edges)
    assert all(span.begin < span.end <= len(text) for span in explanation.spans)


def test_explain_agrees_with_weights(fitted: TwoLevelModel, scorer: Scorer, comments) -> None:
    weights = fitted.arrays.weights[:, :6] * fitted.arrays.scale
    for text in comments[0][4000:4200]:
        explanation = scorer.explain(text)
        linear = sum((s.contributions for s in explanation.spans), np.zeros(6))
        assert np.allclose(linear, (fitted.ngrams.transform([text]) @ weights)[0], atol=1e-5)


def test_explain_finds_toxic_word(scorer: Scorer) -> None:
    text = "I think that you are a  s t u p i d idiot, my friend"
    explanation = scorer.explain(text)
    worst = max(explanation.spans, key=lambda span: span.contributions[0])
    assert text[worst.begin : worst.end] in ("s t u p i d", "idiot")


def test_score_many_and_explain_empty(scorer: Scorer) -> None:
    assert scorer.score_many([]).shape == (0, 6)
    assert scorer.explain("").spans == []


def test_text_key_ignores_obfuscation(scorer: Scorer) -> None:
    assert scorer.text_key("You are SILLY!") == scorer.text_key("y0u are s.i.l.l.y")
    assert scorer.text_key("You are silly") != scorer.text_key("You are kind")


def test_score_restarts_stamps_at_limit(scorer: Scorer) -> None:
    expected = scorer.score("one two. three")
    scorer._state.stamp = (1 << 32) - 10
    assert np.array_equal(scorer.score("one two. three"), expected)
    assert scorer._state.stamp < 100


def test_scorer_imports_no_training_library() -> None:
    code = "import sys, apps.classifier.scorer; print({'sklearn', 'pandas', 'django'} & {*sys.modules})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_root()
    )
    assert run.stdout.strip() == "set()"


def _root() -> Path:
    return Path(__file__).resolve().parents[3]


def test_warm_compiles_everything_that_serving_calls() -> None:
    code = """
import gc
from pathlib import Path
from numba.core.dispatcher import Dispatcher
from apps.classifier.artifact import Artifact
from apps.classifier.scorer import Scorer, warm

def compiled():
    return sum(len(each.overloads) for each in gc.get_objects() if isinstance(each, Dispatcher))

scorer = Scorer.load(Artifact.read(Path("apps/registry/base_model")))
warm(scorer)
before = compiled()
text = "You are an 1d1ot \N{GRINNING FACE}. " * 50
scorer.score(text), scorer.score_many([text, "", "a"]), scorer.explain(text), scorer.text_key(text)
print(before, compiled())
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_root()
    )
    before, after = map(int, run.stdout.split())
    assert after == before > 0
