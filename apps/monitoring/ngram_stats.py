"""Statistics of a comment's text for rollups: n-grams unknown to the model, identity groups named."""

import re
from functools import lru_cache

import numpy as np

from apps.classifier.kernels.layout import Workspace
from apps.classifier.kernels.ngrams import hash_words
from apps.classifier.kernels.normalisation import normalise_codes
from apps.classifier.normalise import codes_of, table
from apps.monitoring.models import IDENTITY_GROUPS
from apps.registry.models import ModelVersion

_GROUP_PATTERNS = {
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
_ANY_GROUP = re.compile(rf"\b(?:{'|'.join(_GROUP_PATTERNS.values())})\b", re.IGNORECASE)
_GROUPS = [re.compile(rf"\b(?:{_GROUP_PATTERNS[group]})\b", re.IGNORECASE) for group in IDENTITY_GROUPS]


def named_groups(text: str) -> np.ndarray:
    """Return (groups,) 1 for each of IDENTITY_GROUPS that the text names, else 0."""
    if not _ANY_GROUP.search(text):
        return np.zeros(len(IDENTITY_GROUPS), int)
    return np.array([int(pattern.search(text) is not None) for pattern in _GROUPS])


def count_ngrams(lookup: np.ndarray, text: str) -> np.ndarray:
    """Return (2,) the number of n-grams of the normalised text, and of those unknown to the model.

    Args:
        lookup: the n-grams that the model knows, see `load_lookup`.
    """
    codes = codes_of(text)
    workspace = Workspace.allocate(len(codes))
    length, _ = normalise_codes(codes, table(), workspace)
    count, _ = hash_words(length, workspace)
    slots = workspace.slots[: workspace.slot_end[count - 1] if count else 0]
    known = lookup[slots >> np.uint32(5), 0] >> (slots & np.uint32(31)) & np.uint32(1)
    return np.array([len(slots), len(slots) - int(known.sum())])


@lru_cache(maxsize=2)
def load_lookup(version_id: int) -> np.ndarray:
    """Return the table of the n-grams that a version knows. The two most recently used are cached.

    The whole scorer would take 130 MB in each worker that counts, most of them for the encoder.
    """
    version = ModelVersion.objects.get(pk=version_id)
    return version.modelartifact.artifact().open(version.sha256)[1].lookup
