"""Open the folder that a finished study left, and load its model with or without its adapter.

Why it exists: whoever takes a model away should take the one that its plan names, or none.

Rules:
    * Facts, plan and base are checked against each other's digests; an adapter has to fit the plan's, key by key.
    * The adapter is built from the plan, not from a file's word about itself; weights are safetensors, nothing is
      unpickled, nothing is fetched.

What it does not do: write anything (see `merged` and `onnx_form`).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import safetensors.torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import nn

from fedmed.errors import IntegrityError, ModelError, UsageError
from fedmed.models import Architecture, attach_adapter, folder_digest, load_module
from fedmed.records import Plan, decode
from fedmed.released.facts import StudyResult

ADAPTER = "adapter_model.safetensors"
WHOLE = "model.safetensors"
CARD = "README.md"
_WHERE = "it is coordinator/study-N/result of a run, or the folder that fedmed coordinator fetch made"


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A finished study's folder whose parts belong together."""

    folder: Path
    plan: Plan
    facts: StudyResult
    architecture: Architecture
    kinds: dict[str, str]
    """Of each pretrained model in the base, by what it reads, its kind as transformers names it."""

    @property
    def adapted(self) -> bool:
        """Whether an adapter was released, and not a whole model."""
        return self.plan.model.adapter == "lora"

    @property
    def base(self) -> Path:
        """The folder of the base."""
        return self.folder / "base"

    @property
    def weights(self) -> Path:
        """The file of what was trained."""
        return self.folder / "model" / (ADAPTER if self.adapted else WHOLE)

    @property
    def weights_sha256(self) -> str:
        """The SHA-256 of what was trained."""
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()

    @property
    def card(self) -> Path:
        """The model card."""
        return self.folder / "model" / CARD

    def load(self) -> tuple[nn.Module, PeftModel | None]:
        """Return the module of the base, which now computes what was released, and the adapter that lies in it.

        The adapter changes the module's own layers: `adapter.merge_and_unload()` leaves `module` without it.

        Raises:
            ModelError: The weights don't fit the plan.
            IntegrityError: The base is not the plan's.
        """
        if not self.adapted:
            folder = self.folder / "model"
            _, module = load_module(folder, expected_digest=folder_digest(folder))
            return module.eval(), None
        _, module = load_module(self.base, expected_digest=self.plan.base_digest)
        adapter = attach_adapter(module, self.plan.model, seed=self.plan.seed)
        assert isinstance(adapter, PeftModel)  # noqa: S101  what `lora` means
        self._write_into(adapter)
        return module.eval(), adapter.eval()

    def _write_into(self, adapter: PeftModel) -> None:
        expected = get_peft_model_state_dict(adapter, save_embedding_layers=False)
        others = ModelError(
            f"expected the adapter that the plan describes in {self.weights}, got another; fetch it again"
        )
        try:
            state = safetensors.torch.load(self.weights.read_bytes())
        except SafetensorError:
            raise others from None
        shapes = {name: value.shape for name, value in state.items()}
        if shapes != {name: value.shape for name, value in expected.items()}:
            raise others
        set_peft_model_state_dict(adapter, state)


def open_released(folder: Path) -> Released:
    """Return what a finished study left in `folder`, after checking that its parts belong together.

    Raises:
        UsageError: This is no such folder.
        IntegrityError: Facts, plan and base are not of one study, or a file is damaged.
    """
    for name in ("plan.json", "result.json", "base/config.json"):
        if not (folder / name).is_file():
            raise UsageError(f"expected the result of a finished study in {folder}, found no {name}; {_WHERE}")
    planned = (folder / "plan.json").read_bytes()
    plan = decode(planned, Plan)
    facts = decode((folder / "result.json").read_bytes(), StudyResult)
    if facts.plan_digest != hashlib.sha256(planned).hexdigest():  # of the bytes: a later FedMed may know more fields
        raise IntegrityError(
            f"{folder}: expected the facts of plan.json, found those of another; fetch the result again"
        )
    base = folder / "base"
    found = folder_digest(base)
    if found != plan.base_digest:
        raise IntegrityError(
            f"expected base {plan.base_digest[:12]}, found {found[:12]} in {base}; fetch the result again"
        )
    architecture = decode((base / "config.json").read_bytes(), Architecture)
    for tower in architecture.inside(base).towers:
        tower.verified()
    kinds = tower_kinds(base, architecture)
    released = Released(folder=folder, plan=plan, facts=facts, architecture=architecture, kinds=kinds)
    if not released.weights.is_file():
        raise IntegrityError(f"expected {released.weights}, found none; fetch the result again")
    return released


def tower_kinds(base: Path, architecture: Architecture) -> dict[str, str]:
    """Return, by what it reads, the kind of each pretrained model of a base as its configuration names it."""
    configurations = {
        tower.part: msgspec.json.decode((base / tower.part / "config.json").read_bytes())
        for tower in architecture.towers
    }
    return {part: str(found.get("model_type", "unknown")) for part, found in configurations.items()}
