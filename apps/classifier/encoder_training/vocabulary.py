"""Cuts the vocabulary of a SentencePiece Unigram tokenizer to the pieces that the supported languages need.

Unigram segments a word into other pieces where a piece is missing, so every text can still be read.
"""

import copy
import json
from collections.abc import Mapping
from typing import Any


def select_pieces(
    tokenizer: Mapping[str, Any], counts: Mapping[str, Mapping[int, float]], size: int
) -> list[int]:
    """Return the ids of the pieces to keep, in ascending order.

    Special tokens and single characters are kept first. The sources then take turns, and each adds its most
    frequent piece that is not yet kept; what is left goes to the first pieces of the original vocabulary,
    which is sorted by frequency.

    Args:
        tokenizer: the content of `tokenizer.json`.
        counts: for each source, such as a language, how often its texts use each piece.
        size: the number of pieces.
    """
    pieces = tokenizer["model"]["vocab"]
    kept = {token["id"] for token in tokenizer["added_tokens"] if token["id"] < len(pieces)}
    kept |= {index for index, (piece, _) in enumerate(pieces) if len(piece.removeprefix("▁")) <= 1}
    ranked = [iter(sorted(uses, key=uses.__getitem__, reverse=True)) for uses in counts.values()]
    while ranked and len(kept) < size:
        for source in list(ranked):
            index = next((index for index in source if index not in kept), None)
            if index is None:
                ranked.remove(source)
            elif len(kept) < size:
                kept.add(index)
    for index in range(len(pieces)):
        if len(kept) >= size:
            break
        kept.add(index)
    return sorted(kept)


def cut_tokenizer(tokenizer: Mapping[str, Any], kept: list[int]) -> dict[str, Any]:
    """Return the content of `tokenizer.json` with only these pieces, numbered anew in their order."""
    result = copy.deepcopy(dict(tokenizer))
    pieces = result["model"]["vocab"]
    new_ids = {old: new for new, old in enumerate(kept)}
    result["model"]["vocab"] = [[pieces[index][0], round(pieces[index][1], 4)] for index in kept]
    result["model"]["unk_id"] = new_ids[tokenizer["model"]["unk_id"]]
    result["added_tokens"] = [
        token | {"id": new_ids[token["id"]]} for token in result["added_tokens"] if token["id"] in new_ids
    ]
    result["truncation"] = result["padding"] = None
    for token in result["post_processor"]["special_tokens"].values():
        token["ids"] = [new_ids[index] for index in token["ids"]]
    return result


def dump_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """Return the content of a compact `tokenizer.json`."""
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
