"""Model folders: `config.json`, `model.safetensors` and the folders of pretrained towers, named by their digest.

Why it exists: the coordinator ships a public base once; a site trains only on
the base whose digest stands in the plan.

Rules:
    * safetensors only; nothing is ever unpickled.
    * The digest covers the names and bytes of the two files, and the configuration names the SHA-256 of every file of
      a tower: one flipped bit is another model, and a site refuses it.
    * A tower's folder is one that plain transformers loads.

What it does not do: fetch folders, or save adapters (PEFT does).
"""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fedmed.errors import IntegrityError, ModelError
from fedmed.files import write_atomic
from fedmed.models.architecture import Architecture, Tower
from fedmed.models.build import build_module
from fedmed.models.pretrained import without_progress
from fedmed.models.reading import ReadingModel
from fedmed.records import canonical_json, decode

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save_base(folder: Path, architecture: Architecture, module: nn.Module) -> str:
    """Write a model folder and return its digest.

    Args:
        folder: Created if absent.
        architecture: What `module` was built from.
        module: Its weights are stored.

    Raises:
        ModelError: The module has an adapter, or towers and is not what `build_module` made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    towers = tuple(_save_tower(folder, tower, module) for tower in architecture.towers)
    state = {name: tensor.contiguous() for name, tensor in _own_state(module).items()}
    write_atomic(folder / CONFIG, canonical_json(replace(architecture, towers=towers)), mode=0o644)
    write_atomic(folder / WEIGHTS, safetensors.torch.save(state), mode=0o644)
    return folder_digest(folder)


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 over both files of a model folder, as 64 hexadecimal digits.

    Raises:
        ModelError: The folder lacks one of its files.
    """
    total = hashlib.sha256(b"FedMed-model/v1\0")
    for name in (CONFIG, WEIGHTS):
        path = folder / name
        if not path.is_file():
            raise ModelError(f"expected {name} in model folder {folder}, found none; copy the whole folder again")
        total.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def load_module(folder: Path, *, expected_digest: str) -> tuple[Architecture, nn.Module]:
    """Return the architecture and the module of a model folder.

    Raises:
        ModelError: A file is missing or the weights don't fit the architecture.
        IntegrityError: The folder is not the one that was expected.
    """
    found = folder_digest(folder)
    if found != expected_digest:
        raise IntegrityError(
            f"expected model {expected_digest[:12]}, found {found[:12]} in {folder}; copy the folder again"
        )
    architecture = decode((folder / CONFIG).read_bytes(), Architecture)
    module = build_module(architecture.inside(folder), seed=0)
    others = ModelError(f"expected weights of a {architecture.family} model in {folder}, got others")
    try:
        state = safetensors.torch.load((folder / WEIGHTS).read_bytes())
        if state.keys() != _own_state(module).keys():
            raise others
        module.load_state_dict(state, strict=False)
    except (RuntimeError, SafetensorError):
        raise others from None
    return architecture, module


def _own_state(module: nn.Module) -> dict[str, Tensor]:
    return module.own_state() if isinstance(module, ReadingModel) else module.state_dict()


def _save_tower(folder: Path, tower: Tower, module: nn.Module) -> Tower:
    """Write the folder of a tower: its weights with their head, and the tokenizer's files as they were."""
    if not isinstance(module, ReadingModel):
        raise ModelError(f"expected a module with a tower for {tower.part}, got a {type(module).__name__}")
    source, target = Path(tower.folder), folder / tower.part
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in tower.files:
        if not file.name.endswith((".safetensors", ".safetensors.index.json")) and file.name != CONFIG:
            shutil.copyfile(source / file.name, target / file.name)
    with without_progress():
        module.tower(tower.part).save_pretrained(str(target))
    return Tower.of(tower.part, target, stored_as=tower.part)
