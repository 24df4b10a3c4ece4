"""A combination that no module can be built from is refused in one line."""

from typing import Any

import pytest

from fedmed.model_spec import MachineSpec, ModelSpec

TEXT = {"family": "text-encoder", "adapter": "lora", "characters": 100}
IMAGE = {"family": "image-encoder", "adapter": "lora", "image_size": 8, "channels": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TEXT | {"characters": 0}, "characters must be above 0 with text-encoder"),
        (TEXT | {"adapter": "full"}, "adapter must be lora with text-encoder"),
        (TEXT | {"image_size": 8, "channels": 1}, "image_size and channels must be 0 with text-encoder"),
        (IMAGE | {"channels": 0}, "image_size and channels must be above 0 with image-encoder"),
        (IMAGE | {"characters": 5}, "characters must be 0 with image-encoder"),
        ({"family": "linear", "adapter": "full", "characters": 5}, "characters must be 0 with linear"),
        ({"family": "ngrams", "adapter": "lora", "characters": 5}, "adapter=lora needs attention"),
        (TEXT | {"family": "causal-lm", "prompt": "What?"}, "prompt must hold {text}"),
        (TEXT | {"family": "causal-lm", "answers": ("yes",)}, "answers must be none, or two and more that differ"),
        (TEXT | {"family": "causal-lm", "answers": ("a", "a")}, "answers must be none, or two and more that differ"),
        (TEXT | {"max_tokens": 0}, "max_tokens must be at least 1"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(settings: dict[str, Any], message: str):
    """The message names the setting, what it takes and what came."""
    with pytest.raises(ValueError, match=message):
        ModelSpec(**settings)


def test_paths_can_be_left_behind():
    """All else stays."""
    spec = ModelSpec(**TEXT, path="/home/somebody/model")
    assert spec.without_paths() == ModelSpec(**TEXT)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"family": "mlp", "adapter": "full", "precision": "bf16"}, "precision must be fp32 where the whole model"),
        ({"family": "tabular-transformer", "adapter": "lora", "checkpointing": True}, "checkpointing must be false"),
    ],
)
def test_what_no_module_can_be_computed_in_is_refused(changes: dict[str, Any], complaint: str):
    """Only a frozen base is computed in less than float32, and only pretrained blocks are computed twice."""
    with pytest.raises(ValueError, match=complaint):
        ModelSpec(**changes)
    assert ModelSpec(family="tabular-transformer", adapter="lora", precision="bf16").precision == "bf16"


@pytest.mark.parametrize("most", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ceiling_of_memory_is_a_number_above_zero(most: float):
    """Or null, for none."""
    with pytest.raises(ValueError, match="memory_gb must be above 0"):
        MachineSpec(memory_gb=most)
