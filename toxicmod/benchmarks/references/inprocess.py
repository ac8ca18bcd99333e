"""Milliseconds per comment of two libraries, `python inprocess.py FILE.json`.

FILE holds a list of comments. Prints a JSON object: the median of each, and the libraries' versions.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from profanity_check import predict_prob

torch.set_num_threads(1)


class Bert(torch.nn.Module):
    """BERT-base (Devlin et al. 2019) with six outputs and random weights, because only the time counts."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(30_522, 768)
        self.places = torch.nn.Embedding(512, 768)
        self.norm = torch.nn.LayerNorm(768)
        layer = torch.nn.TransformerEncoderLayer(768, 12, 3_072, activation="gelu", batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 12)
        self.pool = torch.nn.Linear(768, 768)
        self.out = torch.nn.Linear(768, 6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.words(ids) + self.places(torch.arange(ids.shape[1])))
        return torch.sigmoid(self.out(torch.tanh(self.pool(self.encoder(hidden)[:, 0]))))


def bert() -> Callable[[str], Any]:
    model = Bert().train(False)

    @torch.inference_mode()
    def score(text: str) -> Any:
        # About four word pieces for three words, and two special tokens. Tokenizing is not measured.
        length = min(512, 2 + len(text.split()) * 4 // 3)
        return model(torch.randint(0, 30_522, (1, length)))

    return score


def median(score: Callable[[str], Any], texts: Sequence[str]) -> float:
    score(texts[0])
    seconds = []
    for text in texts:
        start = time.perf_counter()
        score(text)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        comments = json.load(file)
    milliseconds = {
        "alt-profanity-check": median(lambda text: predict_prob([text]), comments),
        "BERT-base graph, random weights": median(bert(), comments[:50]),
    }
    names = ("alt-profanity-check", "scikit-learn", "torch", "fastapi", "uvicorn", "django", "gunicorn")
    print(json.dumps({"milliseconds": milliseconds, "versions": {name: version(name) for name in names}}))
