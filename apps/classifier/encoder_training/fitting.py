"""Fits an encoder in phases, with checkpoints from which an interrupted run resumes."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .config import EncoderConfig, Progress
from .examples import Examples
from .network import Encoder

SECONDS_PER_CHECKPOINT = 120
SECONDS_PER_REPORT = 15
# Batches are sorted by length within so many batches, which saves padding and keeps the order random.
BATCHES_PER_CHUNK = 64
WEIGHT_OF_NEWEST_LOSS = 0.02


class Texts:
    """Tokenized texts, and their batches.

    Args:
        encode: returns the ids of the pieces of each text, truncated.
        pad: the id of the padding.
    """

    def __init__(self, examples: Examples, encode: Callable[[list[str]], list[list[int]]], pad: int) -> None:
        self.ids = [np.array(ids, np.int32) for ids in encode(examples.texts)]
        self.labels = examples.labels
        self.lengths = np.array([len(ids) for ids in self.ids])
        self.pad = pad

    def order(self, batch_size: int, seed: int) -> list[np.ndarray]:
        """Return the rows of each batch, in random order; the rows of a batch have about the same length."""
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(self.ids))
        batches: list[np.ndarray] = []
        for start in range(0, len(rows), batch_size * BATCHES_PER_CHUNK):
            chunk = rows[start : start + batch_size * BATCHES_PER_CHUNK]
            chunk = chunk[np.argsort(self.lengths[chunk], kind="stable")]
            batches += [chunk[begin : begin + batch_size] for begin in range(0, len(chunk), batch_size)]
        return [batches[k] for k in rng.permutation(len(batches))]

    def batch(self, rows: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (n, pieces) ids of rows and their mask."""
        ids = torch.full((len(rows), int(self.lengths[rows].max())), self.pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : self.lengths[row]] = torch.from_numpy(self.ids[row].astype(np.int64))
            mask[number, : self.lengths[row]] = 1
        return ids.to(device), mask.to(device)


def find_device() -> torch.device:
    """Return the GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device computes with bfloat16; a CPU that emulates it is slow."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def fit(
    model: Encoder,
    texts: Texts,
    config: EncoderConfig,
    *,
    checkpoint: Path,
    seed: int,
    report: Callable[[Progress], None],
) -> None:
    """Train the model for one pass over the texts.

    Args:
        checkpoint: where the state is written every two minutes and at the end. If the file exists, training
            continues from it.
        report: called every 15 seconds.
    """
    device = next(model.parameters()).device
    batches = texts.order(config.batch_size, seed)
    steps, warm_up = len(batches), max(1, int(config.warm_up * len(batches)))
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.body.parameters() if p.requires_grad], "lr": config.learning_rate},
            {"params": model.head.parameters(), "lr": config.learning_rate * config.head_rate},
        ],
        weight_decay=config.weight_decay,
        betas=(0.9, 0.98),
    )

    def rate(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        done = (step - warm_up) / max(1, steps - warm_up)
        return config.final_rate + (1 - config.final_rate) * (1 - done)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    torch.manual_seed(seed)
    start, mean_loss = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        start, mean_loss = state["step"], state["loss"]
        if start == steps:
            return
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["random"].cpu())

    def save(step: int) -> None:
        state: dict[str, Any] = {"model": model.state_dict(), "step": step, "loss": mean_loss}
        if step < steps:
            state |= {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
            state["random"] = torch.get_rng_state()
        temporary = checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, checkpoint)

    model.train()
    pieces = np.array([texts.lengths[rows].max() * len(rows) for rows in batches], float)
    began = saved = reported = time.monotonic()
    for step in range(start, steps):
        loss = _loss(model, texts, batches[step])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        mean_loss += (loss.item() - mean_loss) * (WEIGHT_OF_NEWEST_LOSS if step else 1.0)
        now = time.monotonic()
        if now - reported > SECONDS_PER_REPORT:
            reported = now
            left = (now - began) / pieces[start : step + 1].sum() * pieces[step + 1 :].sum()
            per_row = 1e3 * (now - began) / sum(map(len, batches[start : step + 1]))
            report(Progress(step + 1, steps, mean_loss, left, per_row))
        if now - saved > SECONDS_PER_CHECKPOINT:
            save(step + 1)
            saved = now
    save(steps)


def _loss(model: Encoder, texts: Texts, rows: np.ndarray) -> torch.Tensor:
    """Return the mean binary cross-entropy of the known labels."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device)):
        logits = model(*texts.batch(rows, device))
    labels = torch.from_numpy(texts.labels[rows]).to(device)
    known = (labels >= 0).float()
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits.float(), labels.clamp(min=0).float(), reduction="none"
    )
    return (losses * known).sum() / known.sum().clamp(min=1)
