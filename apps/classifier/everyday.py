"""Neutral sentences about everyday things, which no label applies to, from templates and words."""

import json
import random
from pathlib import Path
from typing import Any

DATA: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "everyday.json").read_text())


def build_sentence(rng: random.Random) -> str:
    """Return an English sentence."""
    text: str = rng.choice(DATA["sentences"])
    for slot, choices in DATA["words"].items():
        while f"{{{slot}}}" in text:
            text = text.replace(f"{{{slot}}}", rng.choice(choices), 1)
    return text
