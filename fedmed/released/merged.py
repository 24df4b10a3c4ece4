"""The merged form: the adapter added into the weights, in a folder that needs no PEFT.

Why it exists: what serves models elsewhere reads a folder of transformers.

Rules:
    * A family that is a class of transformers becomes a folder that `from_pretrained` loads, with its tokenizer.
      Another becomes a model folder of FedMed.
    * What was loaded again is what is compared, not what was saved.
    * What was trained in full has nothing to merge; its own folder is the whole model.

What it does not do: quantise, or change the precision.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedmed.errors import UsageError
from fedmed.models import folder_digest, load_module, save_base
from fedmed.models.pretrained import load_pretrained, without_progress
from fedmed.models.reading import ReadingModel
from fedmed.released.card import auto_class
from fedmed.released.folder import Released
from fedmed.released.ports import Ports


def refuse(released: Released) -> None:
    """Raise if there is nothing to merge.

    Raises:
        UsageError: The whole model was trained.
    """
    if not released.adapted:
        raise UsageError(
            f"expected an adapter to merge, found a {released.architecture.family} model that was trained in full: load"
            f" {released.folder / 'model'} with fedmed.models.load_module, or take --form onnx"
        )


def write(stage: Path, released: Released, module: nn.Module, names: Sequence[str] | None) -> None:
    """Write a module whose adapter is merged.

    Args:
        stage: An empty folder.
        released: Where it came from.
        module: With the adapter merged.
        names: Of the classes, if known; a classifier of transformers carries them.
    """
    auto = auto_class(released.architecture.family)
    if auto is None:
        save_base(stage, released.architecture.inside(released.base), module)
        return
    assert isinstance(module, ReadingModel)  # noqa: S101  every class of transformers is behind a reader
    model, source = module.inner, released.base / auto[1]
    assert isinstance(model, PreTrainedModel)  # noqa: S101  likewise
    for path in source.iterdir():
        if not path.name.endswith((".safetensors", ".safetensors.index.json")) and path.name != "config.json":
            shutil.copyfile(path, stage / path.name)
    if released.architecture.family == "causal-lm":
        model.config.use_cache = True  # off in training; whoever generates wants it
    elif names is not None:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: place for place, name in enumerate(names)}
    with without_progress():
        model.save_pretrained(str(stage))


def compute(
    stage: Path, released: Released, ports: Ports, samples: Sequence[tuple[Tensor, ...]]
) -> Iterator[tuple[Tensor, ...]]:
    """Load what `write` wrote and yield its outputs for each sample; `ports` computes with it from then on."""
    auto = auto_class(released.architecture.family)
    if auto is not None:
        again: nn.Module = load_pretrained(getattr(transformers, auto[0]), stage)
    else:
        _, again = load_module(stage, expected_digest=folder_digest(stage))
        again = again.eval().inner if isinstance(again, ReadingModel) else again.eval()
    ports.core.inner = again
    for sample in samples:
        yield ports.compute(sample)


def loading(released: Released) -> str:
    """Return how the folder is loaded, as Markdown."""
    auto = auto_class(released.architecture.family)
    if auto is not None:
        return f"`transformers.{auto[0]}.from_pretrained('.')`; base and adapter are one."
    return (
        "`fedmed.models.load_module('.', expected_digest=...)`; base and adapter are one. This family is no class of"
        " transformers."
    )
