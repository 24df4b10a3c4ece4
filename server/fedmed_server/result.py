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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn

from fedmed import __version__
from fedmed.errors import IntegrityError
from fedmed.files import write_atomic
from fedmed.learning.ewc import Knowledge, knowledge_from_bytes, knowledge_to_bytes
from fedmed.models import Architecture, Layout, save_base
from fedmed.records import Plan, canonical_json, decode

NORMALISATIONS = {
    "public": "public clinical ranges",
    "site": "each site's own statistics",
    "federated": "federated statistics",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """The facts of a finished study."""

    version: int = 1
    plan_digest: str
    rounds: int
    sites: tuple[str, ...]
    evaluated: tuple[str, ...]
    aggregation: str
    bytes_up: int
    bytes_down: int
    seconds: dict[str, float]


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
    write_atomic(stage / "model" / "README.md", model_card(plan, result).encode(), mode=0o644)
    write_atomic(stage / "knowledge.tensors", knowledge_to_bytes(knowledge), mode=0o644)
    write_atomic(stage / "plan.json", canonical_json(plan), mode=0o644)
    write_atomic(stage / "result.json", canonical_json(result), mode=0o644)
    stage.rename(state / "result")


def model_card(plan: Plan, result: StudyResult) -> str:
    """Return the model card as Markdown: what it is, how it was made, what is promised and what is not."""
    privacy = plan.privacy
    promise = (
        f"Record-level differential privacy at each site (trust model `{privacy.trust_model}`): the plan asked for at"
        f" most epsilon {privacy.epsilon} at delta {privacy.delta} over all studies of the sequence; what was spent"
        " stands in each site's own ledger, under that site's cap."
        f" Clip norm {privacy.clip_norm}, noise multiplier {privacy.noise_multiplier}."
        if privacy.private
        else "None. The model may remember single patients; do not publish it."
    )
    if privacy.private and privacy.noise == "simulated-seed":
        promise += " **The noise came from a seed: this is a simulation and protects nobody.**"
    insecure = result.aggregation == "insecure"
    seen = "each site's update" if insecure else "sums over the sites of a round and nothing of one site"
    loading = (
        "`PeftModel.from_pretrained(base, 'model')`, where `base` is the module in `../base`"
        " (`fedmed.models.load_module`)"
        if plan.model.adapter == "lora"
        else "`fedmed.models.load_module('model', expected_digest=...)`"
    )
    return f"""---
library_name: {"peft" if plan.model.adapter == "lora" else "fedmed"}
tags: [federated-learning, medical, tabular]
---
# {plan.study}

A {plan.model.family} model ({plan.model.adapter}) for `{plan.data.target}` on data of schema `{plan.data.schema}`,
trained by FedMed {__version__} over {len(result.sites)} sites in {result.rounds} rounds.

## Intended use
Research. It is not a medical device and was not validated for care.

## Data
Schema digest `{plan.data.schema_digest}`; cohort: {", ".join(plan.data.cohort) or "all patients"};
features normalised by {NORMALISATIONS[plan.data.normalisation]}. No record left a site.

## Privacy
{promise}

## Aggregation
`{result.aggregation}`: the coordinator saw {seen}.

## Loading
{loading}

Plan digest `{result.plan_digest}`; base digest `{plan.base_digest}`.
"""
