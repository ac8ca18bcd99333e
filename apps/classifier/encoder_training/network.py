"""The network: some layers of a BERT-like encoder, mean and maximum over the pieces, and one linear layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from transformers import AutoModel, BertModel

from apps.classifier.labels import LABELS

# Below every activation of a layer, so that padding never is the maximum.
PADDING_VALUE = -1e4


class Encoder(nn.Module):
    """Six logits of texts.

    Args:
        body: a model with BERT's architecture. Its word embeddings are frozen: training would change only
            those of words in its texts, which harms other languages.
        dropout: the fraction of the pooled activations that training drops.
    """

    def __init__(self, body: BertModel, dropout: float) -> None:
        super().__init__()
        self.body = body
        self.body.embeddings.word_embeddings.weight.requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.body.config.hidden_size * 2, len(LABELS))

    @classmethod
    def from_base(cls, base: str | Path, kept: list[int], layers: tuple[int, ...], dropout: float) -> Self:
        """Return an encoder with some pieces and layers of a base model.

        Args:
            base: a folder or the name on the hub of a model with BERT's architecture.
            kept: the ids of the base's pieces to keep, in ascending order.
            layers: the base's layers to keep.
        """
        body = AutoModel.from_pretrained(
            base, add_pooling_layer=False, attn_implementation="sdpa", dtype=torch.float32
        )
        body.encoder.layer = nn.ModuleList([body.encoder.layer[layer] for layer in layers])
        body.config.num_hidden_layers = len(layers)
        words = body.embeddings.word_embeddings.weight.data[kept].clone()
        body.embeddings.word_embeddings = nn.Embedding.from_pretrained(words)
        body.config.vocab_size = len(kept)
        return cls(body, dropout)

    def average(self, base: Mapping[str, Tensor], weight: float) -> None:
        """Replace all weights by a mean with those of an earlier state, which makes the encoder forget less.

        The method is from Wortsman et al., "Robust fine-tuning of zero-shot models", 2022.

        Args:
            weight: of the earlier state, from 0 to 1.
        """
        self.load_state_dict(
            {
                name: torch.lerp(new, base[name].to(new.device), weight)
                for name, new in self.state_dict().items()
            }
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the (n, labels) logits of (n, pieces) ids and their mask, which is 0 for padding."""
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        maximum = (hidden + (1 - mask) * PADDING_VALUE).amax(1)
        return self.head(self.dropout(torch.cat([mean, maximum], 1)))
