"""Modules that read the features of a table.

Why it exists: tables of some dozen columns need small models, whose gradients per record are cheap.

Rules:
    * Only layers for which per-record gradients exist (linear, embedding, layer norm); nothing couples the records of
      a batch.

What it does not do: choose among them (see `build`).
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmed.models.architecture import Architecture


class Linear(nn.Module):
    """Logistic regression."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.head = nn.Linear(architecture.features, architecture.outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits, shape `[records, outputs]`."""
        return self.head(features)  # type: ignore[no-any-return]


class Perceptron(nn.Module):
    """A multilayer perceptron with tanh, which keeps clipped gradients informative (Papernot et al. 2021)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        sizes = [architecture.features, *[architecture.width] * architecture.depth]
        self.body = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.head = nn.Linear(sizes[-1], architecture.outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits, shape `[records, outputs]`."""
        for layer in self.body:
            features = torch.tanh(layer(features))
        return self.head(features)  # type: ignore[no-any-return]


class TabularTransformer(nn.Module):
    """A small feature-tokenising transformer (FT-Transformer, Gorishniy et al. 2021).

    Every feature becomes the token `value * direction + position`; a summary token
    attends to them and feeds the head.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.features = architecture.features
        self.direction = nn.Embedding(architecture.features, architecture.width)
        self.position = nn.Embedding(architecture.features + 1, architecture.width)
        self.blocks = nn.ModuleList(_Block(architecture) for _ in range(architecture.depth))
        self.norm = nn.LayerNorm(architecture.width)
        self.head = nn.Linear(architecture.width, architecture.outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits, shape `[records, outputs]`, from features of shape `[records, features]`."""
        return self.head(self.summary(features))  # type: ignore[no-any-return]

    def summary(self, features: Tensor) -> Tensor:
        """Return the summary token of every record, shape `[records, width]`."""
        index = torch.arange(self.features + 1, device=features.device).expand(len(features), -1)
        values = self.direction(index[:, : self.features]) * features.unsqueeze(-1)
        tokens = torch.cat([values, torch.zeros_like(values[:, :1])], dim=1) + self.position(index)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, -1])  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Pre-norm attention and feed-forward; separate projections, so that an adapter can name them."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        self.heads = architecture.heads
        self.norm_attention = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._attend(self.norm_attention(tokens))
        return tokens + self.down(functional.gelu(self.up(self.norm_feed(tokens))))  # type: ignore[no-any-return]

    def _attend(self, tokens: Tensor) -> Tensor:
        query, key, value = (self._split(layer(tokens)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), dim=-1)
        return self.o_proj((weights @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, tokens: Tensor) -> Tensor:
        records, length, width = tokens.shape
        return tokens.view(records, length, self.heads, width // self.heads).transpose(1, 2)
