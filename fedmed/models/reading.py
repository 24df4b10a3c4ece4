"""Pretrained models that read rows: what stands between a cohort and the inputs that transformers takes.

Why it exists: training knows rows and outputs. A tokenizer belongs to the model, not to the data, so the model takes
the row itself; yet inside stands the plain model, so that an adapter saved here loads in plain PEFT.

Rules:
    * A reader is a value: equal readers read alike. It keeps nothing of a record.
    * Texts are filled up to the longest of a batch; a model says with `longest` that it can fill them to one length.
    * Rows are read afresh in every pass; without gradients (evaluation) in small batches, to bound memory.

What it does not do: know any family (see `text`, `language`, `vision`).
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedmed.errors import ModelError
from fedmed.model_spec import Precision
from fedmed.models.architecture import Architecture, Part
from fedmed.models.pretrained import one_line
from fedmed.rows import END, SPACE

_FLOAT32_ALONE: Final = {"deberta": "it masks with a number that only float32 has (DeBERTa v2 and v3 don't)"}
"""Kinds of models that transformers computes in float32 alone, and why."""
_EVALUATED = 16
"""Records at a time without gradients."""


class Reader(Protocol):
    """What turns rows into a model's inputs, and its outputs into ours."""

    def inputs(self, rows: Tensor, *, salt: int | None, longest: bool) -> dict[str, Any]:
        """Return the keyword arguments of the model for rows of shape `[records, width]`.

        Args:
            rows: One record each.
            salt: In training a number that changes with the model, for augmentation; None in evaluation.
            longest: Whether texts are filled up to the longest that the model takes, or to the longest of these rows.
        """
        ...

    def outputs(self, found: Any, inputs: dict[str, Any]) -> Tensor:
        """Return outputs as `build.record_losses` takes them."""
        ...


class ReadingModel(nn.Module):
    """A plain model behind a reader, before an adapter is attached."""

    def __init__(
        self,
        inner: nn.Module,
        reader: Reader,
        *,
        targets: tuple[str, ...],
        heads: tuple[str, ...],
        towers: Mapping[Part, PreTrainedModel],
    ) -> None:
        """Wrap `inner`.

        Args:
            inner: The plain model.
            reader: What it reads rows with.
            targets: Endings of the layers that an adapter changes.
            heads: Modules that are trained in full and saved with the adapter.
            towers: The pretrained models in `inner`, by what they read.
        """
        super().__init__()
        self.inner = inner
        self.reader, self.targets, self.heads = reader, targets, heads
        self._parts = {part: name for name, child in self.named_modules() for part, of in towers.items() if child is of}

    def tower(self, part: Part) -> PreTrainedModel:
        """Return the pretrained model that reads `part`."""
        return self.get_submodule(self._parts[part])  # type: ignore[return-value]  # one of the towers given

    def own_state(self) -> dict[str, Tensor]:
        """Return the weights that belong to no tower."""
        prefixes = tuple(f"{name}." for name in self._parts.values())
        return {name: value for name, value in self.state_dict().items() if not name.startswith(prefixes)}

    def forward(self, rows: Tensor) -> Tensor:
        """Return outputs for rows of shape `[records, width]`."""
        return read_through(self.reader, self.inner, rows, training=self.training)

    def adapted(self, config: LoraConfig) -> "ReadingPeftModel":
        """Return the inner model behind an adapter and the same reader."""
        return ReadingPeftModel(self.inner, config, self.reader)


class ReadingPeftModel(PeftModel):
    """A PEFT model of the plain model, which is fed rows."""

    def __init__(self, inner: nn.Module, config: LoraConfig, reader: Reader) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT asks by its old name
            super().__init__(inner, config)
        self.reader = reader
        self.longest = False
        """Whether each batch has one shape, whatever the lengths of its texts: see `fedmed.privacy.precision`."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return outputs for rows of shape `[records, width]`."""
        return read_through(self.reader, self.base_model, rows, training=self.training, longest=self.longest)

    def save_pretrained(self, save_directory: str, *args: Any, **settings: Any) -> None:
        """Save the adapter and the heads as PEFT does, without asking a network about the base's embeddings."""
        super().save_pretrained(save_directory, *args, **{"save_embedding_layers": False, **settings})


def read_through(reader: Reader, model: nn.Module, rows: Tensor, *, training: bool, longest: bool = False) -> Tensor:
    """Return a model's outputs for rows."""
    if torch.is_grad_enabled() or len(rows) <= _EVALUATED:
        inputs = reader.inputs(rows, salt=_salt(model) if training else None, longest=longest)
        return reader.outputs(model(**inputs), inputs)
    parts = [
        read_through(reader, model, part, training=training, longest=longest) for part in torch.split(rows, _EVALUATED)
    ]
    return torch.cat(parts)


def require_precision(module: nn.Module, precision: Precision) -> None:
    """Raise unless the pretrained models in `module` can compute in `precision`.

    Raises:
        ModelError: One can't; the message names its kind and the cure.
    """
    if precision == "fp32":
        return
    for part in module.modules():
        kind = part.config.model_type if isinstance(part, PreTrainedModel) else ""
        if kind in _FLOAT32_ALONE:
            raise ModelError(
                f"model.precision: a {kind} model can't be computed in {precision}: {_FLOAT32_ALONE[kind]}; take"
                " model.precision=fp32, or another model"
            )


def require_readable(module: nn.Module, architecture: Architecture) -> None:
    """Raise unless a pretrained model reads an empty record and one that is full, and says something finite of both.

    What is wrong with a folder beyond its files (positions that end too soon, a padding outside the vocabulary, weights
    that overflow) shows here, and not after sites have begun.

    Raises:
        ModelError: It doesn't.
    """
    if not isinstance(module, ReadingModel):
        return
    letters = torch.full((1, architecture.features), float(ord("a") - SPACE))
    letters[:, 4 : architecture.characters : 5] = 0.0  # a space behind every four
    letters[:, architecture.characters :] = 0.5
    empty = torch.zeros(1, architecture.features)
    empty[:, : architecture.characters] = END
    training = module.training
    where = " and ".join(tower.folder for tower in architecture.towers)
    try:
        with one_line(Path(where)), torch.no_grad():
            outputs = module.eval()(torch.cat([empty, letters]))
    finally:
        module.train(training)
    if not bool(torch.isfinite(outputs).all()):
        raise ModelError(f"{where}: the model's outputs on a trial record are not finite; copy the whole folder again")


@contextmanager
def checkpointed(module: nn.Module) -> Iterator[None]:
    """Hold the transformers in `module` so that their blocks are computed again in the backward pass, not kept.

    Not re-entrant: the frozen inputs of an adapted model would have no gradient to begin a re-entrant pass with.

    Raises:
        ModelError: There is none, or one can't be computed so.
    """
    models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    models = [
        part for part in models if not any(part is not other and part in set(other.modules()) for other in models)
    ]
    if not models or not all(part.supports_gradient_checkpointing for part in models):
        names = ", ".join(sorted({type(part).__name__ for part in models})) or type(module).__name__
        raise ModelError(f"checkpointing: expected transformers that can compute their blocks twice, got {names}")
    try:
        for part in models:
            part.activation_checkpointing_enable({"use_reentrant": False})
        yield
    finally:
        for part in models:
            part.activation_checkpointing_disable()  # type: ignore[no-untyped-call]


def _salt(model: nn.Module) -> int:
    """Return a number that depends on what is trained of a model alone, which a release of it would show anyway."""
    trained = [value for value in model.parameters() if value.requires_grad]
    return int((trained[-1].detach() * 2**20).long().sum()) if trained else 0
