"""Neutral sentences about everyday things, which no label applies to, from templates and words."""

import json
import random
from pathlib import Path
from typing import Any

AUDIT_SENTENCES, AUDIT_SEED = 1_000, 1  # another seed than training's
DATA: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "everyday.json").read_text())


def build_sentence(rng: random.Random) -> str:
    """Return an English sentence."""
    text: str = rng.choice(DATA["sentences"])
    for slot, choices in DATA["words"].items():
        while f"{{{slot}}}" in text:
            text = text.replace(f"{{{slot}}}", rng.choice(choices), 1)
    return text


def audit_sentences() -> list[str]:
    """Return the sentences on which models are compared, the same ones in each process."""
    rng = random.Random(AUDIT_SEED)
    return [build_sentence(rng) for _ in range(AUDIT_SENTENCES)]
