"""A result's folder is opened whole and of one study, or not at all."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
from released_results import write_result

from fedmed.errors import IntegrityError, ModelError, UsageError
from fedmed.released import open_released

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own


def changed(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_result_says_what_it_is(tmp_path: Path):
    """Plan, facts, architecture and the kinds of its pretrained models."""
    released = open_released(write_result(tmp_path, "text-encoder:bert"))
    assert released.plan.study == "tiny study"
    assert released.facts.rounds == 4
    assert released.architecture.classes == 3
    assert released.kinds == {"text": "bert"}
    assert released.weights.name == "adapter_model.safetensors"


@pytest.mark.parametrize("name", ["plan.json", "result.json", "base/config.json"])
def test_another_folder_is_refused(name: str, tmp_path: Path):
    """The message says which file a result has and where results are."""
    folder = write_result(tmp_path, "linear")
    (folder / name).unlink()
    with pytest.raises(UsageError, match=f"found no {name}; it is coordinator/study-N/result of a run, or the folder"):
        open_released(folder)


def test_facts_of_another_plan_are_refused(tmp_path: Path):
    """A card, a plan and a model that were put together by hand are not a result."""
    folder = write_result(tmp_path, "linear")
    changed(folder / "result.json", plan_digest="f" * 64)
    with pytest.raises(IntegrityError, match=r"expected the facts of plan.json, found those of another"):
        open_released(folder)


def test_a_plan_that_lacks_a_later_field_is_still_the_plan(tmp_path: Path):
    """Its digest is that of the bytes that were signed, whatever this version would write."""
    folder = write_result(tmp_path, "linear")
    plan = json.loads((folder / "plan.json").read_text())
    del plan["model"]["augmentation"]  # a field with a default
    older = msgspec.json.encode(plan)
    (folder / "plan.json").write_bytes(older)
    changed(folder / "result.json", plan_digest=hashlib.sha256(older).hexdigest())
    assert open_released(folder).plan.model.augmentation == "none"


def test_a_base_that_is_not_the_plans_is_refused(tmp_path: Path):
    """Also where only its weights differ."""
    folder = write_result(tmp_path, "tabular-transformer")
    path = folder / "base" / "model.safetensors"
    state = safetensors.torch.load(path.read_bytes())
    path.write_bytes(safetensors.torch.save({name: value + 1 for name, value in state.items()}))
    with pytest.raises(IntegrityError, match=r"expected base [0-9a-f]{12}, found"):
        open_released(folder)


def test_a_changed_file_of_a_tower_is_refused(tmp_path: Path):
    """The tokenizer belongs to the base."""
    folder = write_result(tmp_path, "text-encoder:bert")
    changed(folder / "base" / "text" / "tokenizer_config.json", pad_token="x")
    with pytest.raises(IntegrityError, match=r"expected tokenizer_config.json of the model"):
        open_released(folder)


def test_missing_weights_are_refused(tmp_path: Path):
    """PEFT would look for a pickle, and then on the network."""
    folder = write_result(tmp_path, "tabular-transformer")
    (folder / "model" / "adapter_model.safetensors").rename(folder / "model" / "adapter_model.bin")
    with pytest.raises(IntegrityError, match=r"adapter_model.safetensors, found none"):
        open_released(folder)


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path):
    """Neither a part of an adapter nor one of another rank is loaded."""
    folder = write_result(tmp_path, "tabular-transformer")
    path = folder / "model" / "adapter_model.safetensors"
    whole = safetensors.torch.load(path.read_bytes())
    first = sorted(whole)[0]
    for other in (
        {name: value for name, value in whole.items() if name != first},
        whole | {first: whole[first][:1].clone()},
        whole | {"more": whole[first].clone()},
    ):
        path.write_bytes(safetensors.torch.save(other))
        with pytest.raises(ModelError, match="expected the adapter that the plan describes"):
            open_released(folder).load()
    path.write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="expected the adapter that the plan describes"):
        open_released(folder).load()


def test_merging_leaves_the_module_without_its_adapter(tmp_path: Path):
    """The module that was given is the one that is merged."""
    module, adapter = open_released(write_result(tmp_path, "image-encoder:vit")).load()
    assert adapter is not None
    assert any("lora" in name for name, _ in module.named_parameters())
    adapter.merge_and_unload()
    assert not any("lora" in name for name, _ in module.named_parameters())
