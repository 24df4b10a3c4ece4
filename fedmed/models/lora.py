"""Attach LoRA adapters (Hu et al. 2022) with PEFT and decide what of them is trained.

Why it exists: a hospital trains and sends only an adapter over a public base.

Rules:
    * One factor is trained at a time wherever the mean has to be exact: with the other one fixed,
      the mean of the products is the product of the mean, also under a sum-only aggregation.
    * `ffa` (Sun et al. 2024), the default, and `mr-mtl` (Liu et al. 2022): A is orthonormal and frozen, B is
      trained. `fedsvd` (Lee et al. 2025): likewise, and A is refreshed between rounds.
    * `rolora` (Chen et al. 2024): B is trained in even rounds, A in odd ones.
    * `fedit` (Zhang et al. 2024) trains A and B; its average is not exact and it is here as the baseline.
    * The head is trained in full and saved with the adapter.
    * A pretrained model says itself which layers are adapted and what stands on it (see `pretrained`).

What it does not do: aggregate, or adapt models that have no attention.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedmed.errors import ModelError
from fedmed.models.reading import ReadingModel, require_precision
from fedmed.models.vector import Layout
from fedmed.records import ModelSpec

TARGETS = ("q_proj", "v_proj")
HEADS = ("head",)
_A, _B, _BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer.weight"


def attach_adapter(module: nn.Module, spec: ModelSpec, *, seed: int) -> nn.Module:
    """Return `module` prepared for training under `spec`: whole, or frozen behind a LoRA adapter.

    Args:
        module: The public base; with `adapter=lora` it is wrapped by PEFT in place.
        spec: Rank, alpha and rule of the adapter.
        seed: Determines A, so that every site starts from the same adapter.

    Raises:
        ModelError: The module can't be computed in the precision of `spec`.
    """
    require_precision(module, spec.precision)
    if spec.adapter == "full":
        return module.requires_grad_(requires_grad=True)
    reading = module if isinstance(module, ReadingModel) else None
    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,  # type: ignore[arg-type]  # peft accepts floats and documents ints
        target_modules=list(TARGETS if reading is None else reading.targets),
        modules_to_save=list(HEADS if reading is None else reading.heads) or None,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in module.modules()),
        lora_dropout=0.0,
        bias="none",
    )
    adapted = get_peft_model(module, config) if reading is None else reading.adapted(config)
    _initialise_a(adapted, seed)
    freeze_by_rule(adapted, spec)
    return adapted


def freeze_by_rule(adapted: nn.Module, spec: ModelSpec, *, number: int = 0) -> None:
    """Leave trainable what `spec.lora_rule` trains in round `number`, and freeze the rest of the adapter."""
    if spec.adapter == "full":
        return
    odd = spec.lora_rule == "rolora" and number % 2 == 1
    for name, parameter in adapted.named_parameters():
        if name.endswith(_A):
            parameter.requires_grad = odd or spec.lora_rule == "fedit"
        elif name.endswith(_B):
            parameter.requires_grad = not odd


def frozen_factors(adapted: nn.Module) -> Layout:
    """Return the layout of the factors that are not trained now; empty without an adapter."""
    frozen = [
        (name, tuple(p.shape))
        for name, p in adapted.named_parameters()
        if name.endswith((_A, _B)) and not p.requires_grad
    ]
    return Layout(names=tuple(name for name, _ in frozen), shapes=tuple(shape for _, shape in frozen))


def enter_round(adapted: nn.Module, spec: ModelSpec, *, number: int, frozen: NDArray[np.floating] | None) -> Layout:
    """Prepare an adapter for a round, whose trainable part is then to be written, and return that part's layout.

    Args:
        adapted: From `attach_adapter`.
        spec: Its rule.
        number: The round, from 0.
        frozen: The frozen factors, `[frozen_factors(adapted).size]`; they come with the rules that change them.

    Raises:
        ModelError: Frozen factors came with a rule that never changes them, don't fit, or are missing.
    """
    if (frozen is not None) != spec.refreshed:
        wanted = "frozen factors" if spec.refreshed else "no frozen factors"
        raise ModelError(
            f"expected {wanted} with lora_rule {spec.lora_rule}, got {'none' if frozen is None else 'some'}"
        )
    freeze_by_rule(adapted, spec, number=number)
    if frozen is not None:
        frozen_factors(adapted).write(adapted, frozen)
    return Layout.of(adapted)


def round_layouts(adapted: nn.Module, spec: ModelSpec, *, number: int = 0) -> tuple[Layout, Layout]:
    """Return the layouts of what a round trains and of the factors that it freezes; round 0 is what is released."""
    before = {parameter: parameter.requires_grad for parameter in adapted.parameters()}
    try:
        freeze_by_rule(adapted, spec, number=number)
        return Layout.of(adapted), frozen_factors(adapted)
    finally:
        for parameter, trained in before.items():
            parameter.requires_grad = trained


def layer_of(name: str) -> str | None:
    """Return the adapted layer that a factor or a base weight belongs to, or None for other parameters.

    >>> layer_of("block.q_proj.lora_B.default.weight")
    'block.q_proj'
    """
    for ending in (_A, _B, _BASE):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return None


def factors_of(layer: str) -> tuple[str, str, str]:
    """Return the names of an adapted layer's A, B and base weight."""
    return layer + _A, layer + _B, layer + _BASE


def is_a(name: str) -> bool:
    """Return whether a parameter is the factor A of an adapter."""
    return name.endswith(_A)


@contextmanager
def whole_weights_trained(adapted: nn.Module) -> Iterator[None]:
    """Hold the weights that an adapter changes trainable in place of its factors.

    The gradient of such a weight is that of the change W - W0 itself, scaled as PEFT scales it.
    """
    before = {parameter: parameter.requires_grad for parameter in adapted.parameters()}
    adapted_layers = {layer_of(name) for name, _ in adapted.named_parameters() if name.endswith(_A)}
    try:
        for name, parameter in adapted.named_parameters():
            if name.endswith((_A, _B)):
                parameter.requires_grad = False
            elif name.endswith(_BASE) and layer_of(name) in adapted_layers:
                parameter.requires_grad = True
        yield
    finally:
        for parameter, trained in before.items():
            parameter.requires_grad = trained


def is_adapted(module: nn.Module) -> bool:
    """Return whether `module` carries a PEFT adapter."""
    return isinstance(module, PeftModel)


def _initialise_a(adapted: nn.Module, seed: int) -> None:
    """Set every A to orthonormal rows drawn from `seed`; B is zero, so the adapter starts as the identity."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in adapted.named_parameters():
            if ".lora_A." in name:
                nn.init.orthogonal_(parameter)
            elif ".lora_B." in name:
                parameter.zero_()
