"""Pretrain a public base on records that nobody ever was.

Why it exists: an adapter needs a base that already represents the features of
a data set, and the coordinator has no patient data to make one from.

Rules:
    * Inputs are drawn from the schema's public ranges alone: standard normal in
      normalised units, clipped as real records are. No patient is involved, so
      the base costs no privacy.
    * The task is self-supervised: from its summary token the transformer must
      give back every feature and a bank of random pairwise products.

What it does not do: see a label, a site or a real distribution.
"""

import torch
from torch import Tensor, nn

from fedmed.models.build import TabularTransformer

CLIP = 4.0


def pretrain_base(module: nn.Module, *, features: int, seed: int, steps: int = 300, batch: int = 256) -> float:
    """Pretrain `module` in place on synthetic public records; other families are left as built.

    Args:
        module: A tabular transformer (its head is not touched).
        features: Number of features of a record.
        seed: Determines the synthetic records and the products.
        steps: Optimiser steps.
        batch: Synthetic records per step.

    Returns:
        The mean squared error over the last tenth of the steps, in normalised units squared
        (0.0 for families that have nothing to pretrain).
    """
    if not isinstance(module, TabularTransformer):
        return 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pairs = torch.randint(features, (features, 2))
        decoder = nn.Linear(module.norm.normalized_shape[0], features + len(pairs))
        optimizer = torch.optim.AdamW([*module.parameters(), *decoder.parameters()], lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
        losses = []
        for _ in range(steps):
            records = torch.randn(batch, features).clamp(-CLIP, CLIP)
            error = decoder(module.summary(records)) - _targets(records, pairs)
            loss = error.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    module.zero_grad()
    tail = losses[-max(1, steps // 10) :]
    return float(sum(tail) / len(tail))


def _targets(records: Tensor, pairs: Tensor) -> Tensor:
    return torch.cat([records, records[:, pairs[:, 0]] * records[:, pairs[:, 1]]], dim=1)
