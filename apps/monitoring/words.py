"""What a comment's words tell besides its score: how much of it the model never learned, whom it names."""

import re

import numpy as np

from apps.classifier.kernels.layout import Workspace
from apps.classifier.kernels.ngrams import hash_words
from apps.classifier.kernels.normalisation import normalise_codes
from apps.classifier.normalise import codes_of, table
from apps.classifier.scorer import Scorer
from apps.monitoring.models import GROUPS

_NAMES = {
    "women": r"wom[ae]n|girls?|females?|feminists?",
    "men": r"m[ae]n|boys?|males?",
    "gay": r"gays?|homosexuals?|queers?|lgbtq?",
    "lesbian": r"lesbians?",
    "transgender": r"trans(?:gender|sexuals?)?",
    "black": r"blacks?|african(?:s| americans?)?",
    "white": r"whites?|europeans?",
    "asian": r"asians?|chinese|japanese|koreans?|indians?",
    "muslim": r"muslims?|islamic",
    "jewish": r"jews?|jewish",
    "christian": r"christians?|catholics?|protestants?",
    "immigrant": r"immigrants?|refugees?|foreigners?",
    "disabled": r"disabled|deaf|blind|autistic|paralyzed",
    "old": r"old(?:er)? people|elderly|old m[ae]n|old wom[ae]n",
}
_ANY = re.compile(rf"\b(?:{'|'.join(_NAMES.values())})\b", re.IGNORECASE)
_NAMED = [re.compile(rf"\b(?:{_NAMES[group]})\b", re.IGNORECASE) for group in GROUPS]


def groups_named(text: str) -> np.ndarray:
    """(groups,) 0 or 1: which of `GROUPS` the text names."""
    if not _ANY.search(text):
        return np.zeros(len(GROUPS), int)
    return np.array([int(pattern.search(text) is not None) for pattern in _NAMED])


def known_and_unknown(scorer: Scorer, text: str) -> np.ndarray:
    """(2,): how many n-grams the normalised text has, and how many of them the model has no weight for."""
    codes = codes_of(text)
    workspace = Workspace.allocate(len(codes))
    length, _ = normalise_codes(codes, table(), workspace)
    count, _ = hash_words(length, workspace)
    slots = workspace.slots[: workspace.slot_end[count - 1] if count else 0]
    live = scorer.model.lookup[slots >> np.uint32(5), 0] >> (slots & np.uint32(31)) & np.uint32(1)
    return np.array([len(slots), len(slots) - int(live.sum())])
