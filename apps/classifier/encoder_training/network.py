"""The network: some layers of a BERT-like encoder, mean and maximum over the pieces, and one linear layer."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel

from apps.classifier.labels import LABELS

# Below every activation of a layer, so that padding never is the maximum.
PADDING_VALUE = -1e4


class Encoder(nn.Module):
    """Six logits of texts.

    Args:
        base: a folder or the name on the hub of a model with BERT's architecture.
        kept: the ids of the base's pieces to keep, in ascending order.
        layers: the base's layers to keep.
        dropout: the fraction of the pooled activations that training drops.
    """

    def __init__(self, base: str | Path, kept: list[int], layers: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.body = AutoModel.from_pretrained(
            base, add_pooling_layer=False, attn_implementation="sdpa", dtype=torch.float32
        )
        self.body.encoder.layer = nn.ModuleList([self.body.encoder.layer[layer] for layer in layers])
        self.body.config.num_hidden_layers = len(layers)
        words = self.body.embeddings.word_embeddings.weight.data[kept].clone()
        # The embeddings stay as they are: training changes only those of words in its texts, which harms
        # other languages.
        self.body.embeddings.word_embeddings = nn.Embedding.from_pretrained(words, freeze=True)
        self.body.config.vocab_size = len(kept)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.body.config.hidden_size * 2, len(LABELS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the (n, labels) logits of (n, pieces) ids and their mask, which is 0 for padding."""
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        maximum = (hidden + (1 - mask) * PADDING_VALUE).amax(1)
        return self.head(self.dropout(torch.cat([mean, maximum], 1)))
