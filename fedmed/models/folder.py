"""Model folders: `config.json` and `model.safetensors`, named by their digest.

Why it exists: the coordinator ships a public base once; a site trains only on
the base whose digest stands in the plan.

Rules:
    * safetensors only; nothing is ever unpickled.
    * The digest covers the names and bytes of the two files, so one flipped bit
      is another model, and a site refuses it.

What it does not do: fetch folders, or save adapters (PEFT does).
"""

import hashlib
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from fedmed.errors import IntegrityError, ModelError
from fedmed.files import write_atomic
from fedmed.models.build import Architecture, build_module
from fedmed.records import canonical_json, decode

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save_base(folder: Path, architecture: Architecture, module: nn.Module) -> str:
    """Write a model folder and return its digest.

    Args:
        folder: Created if absent.
        architecture: What `module` was built from.
        module: Its weights are stored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    write_atomic(folder / CONFIG, canonical_json(architecture), mode=0o644)
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
    module = build_module(architecture, seed=0)
    try:
        module.load_state_dict(safetensors.torch.load((folder / WEIGHTS).read_bytes()))
    except (RuntimeError, SafetensorError):
        raise ModelError(f"expected weights of a {architecture.family} model in {folder}, got others") from None
    return architecture, module
