"""What the tests of training share: a source without noise and a few small architectures."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, scaled_dot_product_attention


class NoNoise:
    """Zeros for noise, so that the rest of a step can be seen; sampling takes the smallest rows first."""

    def normal(self, shape: int | tuple[int, ...]) -> NDArray[np.float64]:
        """Return zeros."""
        return np.zeros(shape)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return an even grid on [0, 1): a rate of r takes the first r * count rows."""
        return np.arange(count) / max(count, 1)


class Attention(nn.Module):
    """One head of self-attention built of linear layers, with pre-normalisation and a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend over the second dimension."""
        normal = self.norm(tokens)
        mixed = scaled_dot_product_attention(self.q_proj(normal), self.k_proj(normal), self.v_proj(normal))
        return tokens + self.o_proj(mixed)


class FeatureTokens(nn.Module):
    """Every number times a learned direction: parameters of its own, not in a linear layer."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(features, width))
        self.offsets = nn.Parameter(torch.randn(features, width))

    def forward(self, features: Tensor) -> Tensor:
        """Return (records, features, width)."""
        return features.unsqueeze(-1) * self.directions + self.offsets


class Transformer(nn.Module):
    """A tabular transformer without nn.MultiheadAttention."""

    def __init__(self, features: int = 5, width: int = 8) -> None:
        super().__init__()
        self.tokens = FeatureTokens(features, width)
        self.blocks = nn.Sequential(Attention(width), Attention(width))
        self.head = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return one logit per record."""
        return self.head(self.blocks(self.tokens(features)).mean(1))


def lora() -> nn.Module:
    """Return a transformer with LoRA on queries and values, both halves trainable."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415  seconds, and only some tests want it

    model: nn.Module = get_peft_model(Transformer(), LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    return model


def frozen_a_lora() -> nn.Module:
    """Return the same with every lora_A frozen, as FFA-LoRA does."""
    model = lora()
    for name, value in model.named_parameters():
        if "lora_A" in name:
            value.requires_grad_(requires_grad=False)
    return model


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(5, 1),
    "mlp": lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.LayerNorm(7), nn.Linear(7, 1)),
    "transformer": Transformer,
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 1)
    ),
    "frozen batch norm": lambda: nn.Sequential(
        nn.Linear(5, 7), nn.BatchNorm1d(7).requires_grad_(requires_grad=False), nn.Linear(7, 1)
    ),
    "lora": lora,
    "lora, A frozen": frozen_a_lora,
}


def binary_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of each record."""
    return binary_cross_entropy_with_logits(logits.squeeze(-1), labels, reduction="none")


@pytest.fixture
def no_noise() -> NoNoise:
    """Return a source of zeros."""
    return NoNoise()


@pytest.fixture(params=ARCHITECTURES)
def module(request: pytest.FixtureRequest) -> nn.Module:
    """Return each architecture in turn, with seeded weights."""
    torch.manual_seed(1)
    built: nn.Module = ARCHITECTURES[request.param]()
    return built


@pytest.fixture
def records() -> tuple[Tensor, Tensor]:
    """Return eleven records of five numbers and a binary label."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(11, 5, generator=generator)
    return inputs, (inputs[:, 0] > 0).float()


@pytest.fixture
def loss() -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of a binary label."""
    return binary_loss
