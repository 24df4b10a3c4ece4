"""The site's own model under `lora_rule=mr-mtl`: kept from round to round, and released to the hospital alone.

Why it exists: hospitals differ; a model that is only pulled to the mean may fit one better than the mean does.

Rules:
    * A round starts from the model of the last round before it that this site worked on, so that work which is
      done anew starts where it did the first time.
    * A model is on disk before the answer that it led to can be.
    * Nothing here leaves the site: the coordinator gets the mean over sites.

What it does not do: train, evaluate or charge.
Source: Liu et al., On Privacy and Personalization in Cross-Silo Federated Learning, NeurIPS 2022.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn

from fedmed.errors import IntegrityError
from fedmed.exchange import Task
from fedmed.files import private_folder, write_atomic
from fedmed.models import Architecture, Layout, save_base
from fedmed.models.folder import CONFIG
from fedmed.records import decode, require
from fedmed.tensors import pack, unpack

Vector = NDArray[np.float32]
KEPT_ROUNDS = 3
"""Work of a round may be done anew while the next one is asked for, so more than one start is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")


class PersonalModels:
    """The site's own models, by plan."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, task: Task) -> Vector | None:
        """Return the model that this site has before a round; None before its first."""
        earlier = [path for path in self._rounds(task.plan_digest) if path.name < self._path(task).name]
        return self._read(earlier[-1]) if earlier else None

    def keep(self, task: Task, model: Vector) -> None:
        """Store the model that a round led to."""
        path = self._path(task)
        private_folder(path.parent)
        write_atomic(path, pack(_Head(), {"model": model}))
        for old in self._rounds(task.plan_digest)[:-KEPT_ROUNDS]:
            old.unlink(missing_ok=True)

    def last(self, plan_digest: str) -> Vector | None:
        """Return the model after the last round that this site worked on; None if there was none."""
        found = self._rounds(plan_digest)
        return self._read(found[-1]) if found else None

    def release(self, plan_digest: str, module: nn.Module, model: Vector, *, base: Path) -> Path:
        """Write the finished model for the hospital's own use, as PEFT or safetensors, and return its folder.

        Args:
            plan_digest: Which study.
            module: Built from the plan; `model` is written into it.
            model: This site's own.
            base: The public base; its configuration goes along where the whole model is trained.
        """
        Layout.of(module).write(module, model)
        target = self._folder / plan_digest / "model"
        stage = target.with_name(".model")
        for folder in (stage, target):
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(module, PeftModel):
            module.save_pretrained(str(stage), safe_serialization=True)
        else:
            save_base(stage, decode((base / CONFIG).read_bytes(), Architecture), module)
        for path in (stage, *stage.rglob("*")):  # the libraries that write them leave them open to everybody
            path.chmod(0o700 if path.is_dir() else 0o600)
        stage.rename(target)
        return target

    def _rounds(self, plan_digest: str) -> list[Path]:
        return sorted((self._folder / plan_digest).glob("round-*.tensors"))

    def _read(self, path: Path) -> Vector:
        _, arrays = unpack(path.read_bytes(), _Head)
        if "model" not in arrays:
            raise IntegrityError("expected a stored model of this site, got another file")
        return np.asarray(arrays["model"], dtype=np.float32)

    def _path(self, task: Task) -> Path:
        return self._folder / task.plan_digest / f"round-{task.round:06d}.tensors"
