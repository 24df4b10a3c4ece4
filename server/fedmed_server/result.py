"""The folder that a finished study leaves: model, card, knowledge and facts.

Why it exists: whoever takes the model needs plain PEFT and nothing of ours, and
the next study needs what this one found important.

Layout of `result/` (it appears in one rename, whole or not at all):
    model/      adapter_config.json + adapter_model.safetensors (PEFT), or config.json +
                model.safetensors where the whole model was trained; README.md is the card
    base/       the public base that an adapter stands on
    knowledge.tensors, plan.json, result.json

What it does not do: hold anything of a single site.
"""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn

from fedmed.errors import IntegrityError
from fedmed.files import write_atomic
from fedmed.learning.ewc import Knowledge, knowledge_from_bytes, knowledge_to_bytes
from fedmed.models import Architecture, Layout, save_base
from fedmed.records import Plan, canonical_json, decode
from fedmed.released import StudyResult, model_card, tower_kinds


def load_result(state: Path, *, plan_digest: str) -> StudyResult | None:
    """Return the result in a study's state folder, or None if it is not finished.

    Raises:
        IntegrityError: The result is damaged or of another plan.
    """
    path = state / "result" / "result.json"
    if not path.is_file():
        return None
    result = decode(path.read_bytes(), StudyResult)
    if result.plan_digest != plan_digest:
        raise IntegrityError(f"the result in {state} belongs to another plan; choose another folder")
    return result


def load_knowledge(state: Path) -> Knowledge:
    """Return what the finished study in `state` left behind."""
    return knowledge_from_bytes((state / "result" / "knowledge.tensors").read_bytes())


def save_result(
    state: Path,
    result: StudyResult,
    *,
    plan: Plan,
    base: Path,
    module: nn.Module,
    architecture: Architecture,
    model: NDArray[np.float32],
    knowledge: Knowledge,
) -> None:
    """Write the result folder; it appears whole in one rename.

    Args:
        state: The study's state folder.
        result: Its facts.
        plan: What was run.
        base: The public base, copied along.
        module: Built from the plan; `model` is written into it.
        architecture: Of the base.
        model: The released vector.
        knowledge: For the next study.
    """
    stage = state / ".result"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    Layout.of(module).write(module, model)
    if isinstance(module, PeftModel):
        module.save_pretrained(str(stage / "model"), safe_serialization=True)
    else:
        save_base(stage / "model", architecture, module)
    shutil.copytree(base, stage / "base")
    card = model_card(plan, result, architecture, kinds=tower_kinds(base, architecture))
    write_atomic(stage / "model" / "README.md", card.encode(), mode=0o644)
    write_atomic(stage / "knowledge.tensors", knowledge_to_bytes(knowledge), mode=0o644)
    write_atomic(stage / "plan.json", canonical_json(plan), mode=0o644)
    write_atomic(stage / "result.json", canonical_json(result), mode=0o644)
    stage.rename(state / "result")
