"""Attach LoRA adapters (Hu et al. 2022) with PEFT and decide what of them is trained.

Why it exists: a hospital trains and sends only an adapter over a public base.

Rules:
    * FFA-LoRA (Sun et al. 2024) is the default: A is orthonormal and frozen, B is
      trained, so the mean of the products is the product of the mean: exact under
      a sum-only aggregation.
    * FedIT trains A and B; its average is not exact and it is here as the baseline.
    * The head is trained in full and saved with the adapter.

What it does not do: aggregate, or adapt models that have no attention.
"""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from fedmed.records import ModelSpec

TARGETS = ("q_proj", "v_proj")


def attach_adapter(module: nn.Module, spec: ModelSpec, *, seed: int) -> nn.Module:
    """Return `module` prepared for training under `spec`: whole, or frozen behind a LoRA adapter.

    Args:
        module: The public base; with `adapter=lora` it is wrapped by PEFT in place.
        spec: Rank, alpha and rule of the adapter.
        seed: Determines A, so that every site starts from the same adapter.
    """
    if spec.adapter == "full":
        return module.requires_grad_(requires_grad=True)
    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,  # type: ignore[arg-type]  # peft accepts floats and documents ints
        target_modules=list(TARGETS),
        modules_to_save=["head"],
        lora_dropout=0.0,
        bias="none",
    )
    adapted = get_peft_model(module, config)
    _initialise_a(adapted, seed)
    freeze_by_rule(adapted, spec)
    return adapted


def freeze_by_rule(adapted: nn.Module, spec: ModelSpec) -> None:
    """Leave trainable what `spec.lora_rule` trains, and freeze the rest of the adapter."""
    if spec.adapter == "lora" and spec.lora_rule == "ffa":
        for name, parameter in adapted.named_parameters():
            if ".lora_A." in name:
                parameter.requires_grad = False


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
