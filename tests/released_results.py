"""Results of studies as a coordinator writes them, with trained values that were drawn instead of learnt.

Why it exists: what happens to a released model does not depend on how it was trained.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_folders import write_causal_folder, write_image_folder, write_text_folder
from torch import nn

from fedmed.data.schema import Schema
from fedmed.learning.ewc import Knowledge
from fedmed.models import Architecture, Layout, attach_adapter, build_module, save_base
from fedmed.records import (
    AggregationSpec,
    ContinualSpec,
    DataSpec,
    ModelSpec,
    Plan,
    PrivacySpec,
    TrainingSpec,
    digest,
)
from fedmed.released import StudyResult, open_released
from fedmed_server.result import save_result

CHARACTERS, SIDE, TABLE = 40, 12, 5
PRIVATE = PrivacySpec(
    trust_model="local", epsilon=8.0, clip_norm=0.5, noise_multiplier=1.25, release_noise_multiplier=3.75
)
_LORA: Mapping[str, Any] = {"adapter": "lora", "lora_rank": 2, "lora_alpha": 4.0}
_SMALL: Mapping[str, Any] = {"width": 8, "depth": 2, "heads": 2}


def spec_of(kind: str, root: Path) -> tuple[ModelSpec, int, int]:  # noqa: PLR0911  one for each family
    """Return a small model of a kind, with the width of its rows and its classes.

    A kind is a family, with its pretrained model after a colon; `causal-lm:gpt2:free` learns answers in the text.
    """
    family, _, tower = kind.partition(":")
    small, image = {**_SMALL}, SIDE**2 + 1
    if family in {"linear", "mlp"}:
        return ModelSpec(family=family, adapter="full", **small), TABLE, 3
    if family == "tabular-transformer":
        return ModelSpec(family=family, **_LORA, **small), TABLE, 2
    if family == "survival":
        return ModelSpec(family=family, adapter="full", **small), TABLE, 6
    if family == "ngrams":
        return ModelSpec(family=family, adapter="full", characters=CHARACTERS, **small), CHARACTERS + TABLE, 2
    texts = {"characters": CHARACTERS, "max_tokens": 24}
    images = {"image_size": SIDE, "channels": 1}
    if family == "text-encoder":
        path = str(write_text_folder(root / tower, tower))
        return ModelSpec(family=family, path=path, **texts, **_LORA), CHARACTERS, 3
    if family == "causal-lm":
        tower, _, free = tower.partition(":")
        path = str(write_causal_folder(root / tower, tower))
        asked: dict[str, Any] = {"prompt": "{text}?", "characters": CHARACTERS, "max_tokens": 96}
        asked["answers"] = () if free else ("no", "yes")
        return ModelSpec(family=family, path=path, **asked, **_LORA), CHARACTERS, 2
    if family == "image-encoder":
        return ModelSpec(family=family, path=str(write_image_folder(root / tower, tower)), **images, **_LORA), image, 2
    paths = {
        "path": str(write_text_folder(root / "bert", "bert")),
        "image_path": str(write_image_folder(root / "vit", "vit", whole=False)),
    }
    return ModelSpec(family="fusion", **paths, **texts, **images, **_LORA, **small), CHARACTERS + image + TABLE, 3


def plan_of(spec: ModelSpec, base_digest: str, *, schema: Schema | None = None, target: str = "ill") -> Plan:
    """Return a private plan for `spec`."""
    schema_digest = "0" * 64 if schema is None else schema.digest
    name = "tiny" if schema is None else schema.name
    return Plan(
        study="tiny study",
        seed=3,
        data=DataSpec(schema=name, schema_digest=schema_digest, target=target),
        model=spec,
        base_digest=base_digest,
        training=TrainingSpec(rounds=4, local_steps=1, sample_rate=1.0, learning_rate=1.0),
        privacy=PRIVATE,
        aggregation=AggregationSpec(kind="secure"),
        continual=ContinualSpec(strength=0.0, release_fisher=False),
    )


def facts_of(plan: Plan) -> StudyResult:
    """Return the facts of a finished study over three sites."""
    return StudyResult(
        plan_digest=digest(plan),
        rounds=4,
        sites=("aberdeen", "bergen", "cadiz"),
        evaluated=("aberdeen", "cadiz"),
        aggregation="secure",
        bytes_up=1,
        bytes_down=2,
        seconds={"rounds": 1.5},
    )


def write_result(root: Path, kind: str, *, schema: Schema | None = None, target: str = "ill") -> Path:
    """Write the result of a study of a kind of model below `root`, and return its folder."""
    spec, features, classes = spec_of(kind, root)
    architecture = Architecture.of(spec, features=features, classes=classes)
    module = build_module(architecture, seed=2)
    plan = plan_of(spec, save_base(root / "base", architecture, module), schema=schema, target=target)
    write_trained(root, plan, facts_of(plan), architecture, module)
    return root / "state" / "result"


def write_trained(
    root: Path, plan: Plan, facts: StudyResult, architecture: Architecture, module: nn.Module
) -> nn.Module:
    """Write the result of a study below `root`, whose base is there, and return the model with its drawn values."""
    (root / "state").mkdir(parents=True, exist_ok=True)
    adapted = attach_adapter(module, plan.model, seed=plan.seed)
    size = Layout.of(adapted).size
    model = np.random.default_rng(0).normal(scale=0.3, size=size).astype(np.float32)
    save_result(
        root / "state", facts, plan=plan, base=root / "base", module=adapted, architecture=architecture,
        model=model, knowledge=Knowledge(anchor=model.astype(np.float64), fisher=np.ones(size)),
    )  # fmt: skip
    return adapted


def released_outputs(folder: Path, rows: torch.Tensor) -> torch.Tensor:
    """Return what FedMed's own module, base and adapter, says of rows."""
    module, _ = open_released(folder).load()
    with torch.no_grad():
        found: torch.Tensor = module(rows)
    return found
