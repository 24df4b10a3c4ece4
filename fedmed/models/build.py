"""Build a tabular module from its specification.

Why it exists: a hospital and a coordinator must hold the same function. An
`Architecture` is all that is needed to rebuild it, so it travels in the model
folder beside the weights.

Rules:
    * Modules use only layers for which per-record gradients exist (linear,
      embedding, layer norm); nothing couples the records of a batch.
    * A two-class model has one output (a logit), a k-class model has k.

What it does not do: attach adapters (`lora`), load or save (`folder`), train.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmed.records import Family, ModelSpec, require


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The function that a model folder holds weights for."""

    family: Family
    features: int
    classes: int
    width: int
    depth: int
    heads: int
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")
        require(self.features >= 1, f"features must be at least 1, got {self.features}")
        require(self.classes >= 2, f"classes must be at least 2, got {self.classes}")

    @classmethod
    def of(cls, spec: ModelSpec, *, features: int, classes: int) -> "Architecture":
        """Return the architecture that `spec` means for a data set with these dimensions."""
        return cls(
            family=spec.family,
            features=features,
            classes=classes,
            width=spec.width,
            depth=spec.depth,
            heads=spec.heads,
        )

    @property
    def outputs(self) -> int:
        """Number of outputs per record."""
        return 1 if self.classes == 2 else self.classes


def build_module(architecture: Architecture, *, seed: int) -> nn.Module:
    """Return the module of `architecture` with initial weights that depend on `seed` alone.

    Linear models start at zero, so that a first federated step has no direction of its own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture.family == "linear":
            return _Linear(architecture)
        if architecture.family == "mlp":
            return _Perceptron(architecture)
        return TabularTransformer(architecture)


def record_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of every record, shape `[records]`.

    Args:
        logits: Shape `[records, 1]` (two classes) or `[records, classes]`.
        labels: Class indices, shape `[records]`.
    """
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype), reduction="none")
    return functional.cross_entropy(logits, labels, reduction="none")


def scores(logits: Tensor) -> Tensor:
    """Return class probabilities, shape `[records, classes]`, from logits of either form."""
    if logits.shape[1] == 1:
        positive = torch.sigmoid(logits)
        return torch.cat([1 - positive, positive], dim=1)
    return torch.softmax(logits, dim=1)


class _Linear(nn.Module):
    """Logistic regression."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.head = nn.Linear(architecture.features, architecture.outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features)  # type: ignore[no-any-return]


class _Perceptron(nn.Module):
    """A multilayer perceptron with tanh, which keeps clipped gradients informative (Papernot et al. 2021)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        sizes = [architecture.features, *[architecture.width] * architecture.depth]
        self.body = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.head = nn.Linear(sizes[-1], architecture.outputs)

    def forward(self, features: Tensor) -> Tensor:
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
