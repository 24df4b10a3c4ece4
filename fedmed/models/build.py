"""Build a module from its architecture, and say what its outputs mean.

Why it exists: training, evaluation and Fisher information treat every family alike: a module maps rows to outputs,
and outputs and labels give one loss per record.

Rules:
    * Nothing couples the records of a batch: a record alone has the outputs that it has in a batch.
    * A small two-class model has one output (a logit); every other k-class model has k.
    * A module that is its own judge (a causal model of free answers) returns, per record, its loss and whether it
      would have given the answer: shape `[records, 1, 2]`.

What it does not do: attach adapters (`lora`), load or save (`folder`), train.
"""

import importlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmed.model_spec import AnyFamily
from fedmed.models.architecture import Architecture
from fedmed.models.ngrams import HashedNgrams
from fedmed.models.survival import Hazards
from fedmed.models.tabular import Linear, Perceptron, TabularTransformer

__all__ = ["Architecture", "TabularTransformer", "build_module", "record_losses", "scores"]

_SMALL: Mapping[AnyFamily, Callable[[Architecture], nn.Module]] = {
    "linear": Linear,
    "mlp": Perceptron,
    "tabular-transformer": TabularTransformer,
    "survival": Hazards,
    "ngrams": HashedNgrams,
}
_PRETRAINED: Mapping[AnyFamily, str] = {
    "text-encoder": "fedmed.models.text",
    "causal-lm": "fedmed.models.language",
    "image-encoder": "fedmed.models.vision",
    "fusion": "fedmed.models.fusion",
}
"""Modules with a function `build`; imported when they are asked for, since transformers' models load slowly."""


def build_module(architecture: Architecture, *, seed: int) -> nn.Module:
    """Return the module of `architecture` with initial weights that depend on `seed` and its towers alone.

    Linear models start at zero, so that a first federated step has no direction of its own.

    Raises:
        ModelError: The folder of a pretrained model can't be used.
        IntegrityError: Its files are others than those named.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture.family in _SMALL:
            return _SMALL[architecture.family](architecture)
        built: nn.Module = importlib.import_module(_PRETRAINED[architecture.family]).build(architecture)
        return built


def record_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of every record, shape `[records]`: its cross-entropy, or what the module itself says.

    Args:
        outputs: Shape `[records, 1]` (two classes), `[records, classes]`, or `[records, 1, 2]` (see above).
        labels: Class indices, shape `[records]`.
    """
    if outputs.ndim == 3:
        return outputs[:, 0, 0]
    if outputs.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(outputs[:, 0], labels.to(outputs.dtype), reduction="none")
    return functional.cross_entropy(outputs, labels, reduction="none")


def scores(outputs: Tensor) -> Tensor:
    """Return class probabilities, shape `[records, classes]`, from outputs of any form.

    Of a module that is its own judge: 1 for class 1 where the answer would have been given word for word, else 0.
    """
    if outputs.ndim == 3:
        return torch.stack([1 - outputs[:, 0, 1], outputs[:, 0, 1]], dim=1)
    if outputs.shape[1] == 1:
        positive = torch.sigmoid(outputs)
        return torch.cat([1 - positive, positive], dim=1)
    return torch.softmax(outputs, dim=1)
