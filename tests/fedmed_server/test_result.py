"""A finished study's folder: plain PEFT loads the model, and the card says what is promised."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import released_results
import torch
from peft import PeftModel
from released_results import PRIVATE, facts_of, write_trained
from torch import nn

from fedmed.errors import FedMedError, IntegrityError
from fedmed.learning.ewc import Knowledge
from fedmed.models import (
    Architecture,
    Layout,
    build_module,
    folder_digest,
    load_module,
    save_base,
)
from fedmed.records import (
    AggregationSpec,
    DataSpec,
    ModelSpec,
    Plan,
    PrivacySpec,
    decode,
    digest,
)
from fedmed.released import StudyResult, model_card
from fedmed_server.result import load_knowledge, load_result, save_result

FAMILY = "tabular-transformer"
RECORDS = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def plan_of(adapter: Any = "lora", rule: Any = "ffa", privacy: PrivacySpec = PRIVATE) -> Plan:
    """Return a plan on a part of the patients, whose update travels in clear."""
    spec = ModelSpec(family=FAMILY, adapter=adapter, lora_rule=rule, width=8, depth=2, heads=2, lora_rank=2)
    return replace(
        released_results.plan_of(spec, "1" * 64),
        study="cardiology readmission",
        data=DataSpec(schema="s", schema_digest="0" * 64, target="t", cohort_column="ward", cohort=("a", "b")),
        privacy=privacy,
        aggregation=AggregationSpec(kind="insecure"),
    )


def result_of(plan: Plan) -> StudyResult:
    """Return the facts of a finished study over two sites."""
    return replace(facts_of(plan), sites=("a", "b"), evaluated=("a",), aggregation="insecure")


def save(root: Path, plan: Plan) -> torch.Tensor:
    """Save a trained study below `root` and return the logits of its model on `RECORDS`."""
    architecture = Architecture.of(plan.model, features=5, classes=2)
    base = build_module(architecture, seed=2)
    save_base(root / "base", architecture, base)
    return logits(write_trained(root, plan, result_of(plan), architecture, base))


def card_of(plan: Plan) -> str:
    """Return the card of a finished study."""
    architecture = Architecture.of(plan.model, features=5, classes=2)
    return model_card(plan, result_of(plan), architecture, kinds={})


def logits(module: nn.Module) -> torch.Tensor:
    """Return a module's logits."""
    module.eval()
    with torch.no_grad():
        found: torch.Tensor = module(RECORDS)
    return found


@pytest.mark.parametrize("rule", ["ffa", "fedit"])
def test_plain_peft_loads_the_adapter_over_the_base(tmp_path: Path, rule: str):
    """Whoever has the folder needs the base's module and PEFT: the logits are those of the released model."""
    expected = save(tmp_path, plan_of("lora", rule))
    folder = tmp_path / "state" / "result"
    _, base = load_module(folder / "base", expected_digest=folder_digest(tmp_path / "base"))
    before = logits(base)
    adapted = PeftModel.from_pretrained(base, str(folder / "model"))
    assert torch.allclose(logits(adapted), expected, atol=1e-6)
    assert not torch.allclose(before, expected, atol=1e-2)


def test_a_loaded_adapter_can_be_merged_away(tmp_path: Path):
    """For use without PEFT: the merged module computes the same."""
    expected = save(tmp_path, plan_of())
    folder = tmp_path / "state" / "result"
    _, base = load_module(folder / "base", expected_digest=folder_digest(folder / "base"))
    merged = PeftModel.from_pretrained(base, str(folder / "model")).merge_and_unload()
    assert torch.allclose(logits(merged), expected, atol=1e-5)


def test_a_whole_model_is_a_model_folder(tmp_path: Path):
    """Without an adapter the released model loads like a base; the base that it came from is another."""
    expected = save(tmp_path, plan_of("full"))
    folder = tmp_path / "state" / "result"
    architecture, module = load_module(folder / "model", expected_digest=folder_digest(folder / "model"))
    assert architecture.family == FAMILY
    assert torch.allclose(logits(module), expected, atol=1e-6)
    assert folder_digest(folder / "model") != folder_digest(folder / "base")


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_nothing_in_the_folder_is_pickled(tmp_path: Path, adapter: str):
    """Only safetensors (`.tensors` behind a checksum), JSON and Markdown: opening a result runs no code."""
    save(tmp_path, plan_of(adapter))
    kinds = {path.suffix for path in (tmp_path / "state" / "result").rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".tensors", ".json", ".md"}


def test_facts_plan_and_knowledge_come_back(tmp_path: Path):
    """The next study and the report read what this one left."""
    plan = plan_of()
    save(tmp_path, plan)
    state = tmp_path / "state"
    assert load_result(state, plan_digest=digest(plan)) == result_of(plan)
    assert decode((state / "result" / "plan.json").read_bytes(), Plan) == plan
    knowledge = load_knowledge(state)
    assert knowledge.anchor.shape == knowledge.fisher.shape
    assert knowledge.fisher.tolist() == [1.0] * len(knowledge.fisher)


def test_a_study_that_is_not_finished_has_no_result(tmp_path: Path):
    """Also where a kill left a half-written folder behind."""
    (tmp_path / ".result" / "model").mkdir(parents=True)
    assert load_result(tmp_path, plan_digest="p") is None


def test_what_a_kill_left_behind_is_replaced(tmp_path: Path):
    """The folder appears whole: nothing of the earlier attempt is in it, and nothing stays beside it."""
    stage = tmp_path / "state" / ".result"
    stage.mkdir(parents=True)
    (stage / "half").write_text("written")
    save(tmp_path, plan_of())
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["result"]
    assert not (tmp_path / "state" / "result" / "half").exists()


def test_a_result_of_another_plan_is_refused(tmp_path: Path):
    """A folder isn't taken for the end of another study."""
    save(tmp_path, plan_of())
    with pytest.raises(IntegrityError, match="belongs to another plan; choose another folder"):
        load_result(tmp_path / "state", plan_digest="q" * 64)


def test_a_damaged_result_is_refused(tmp_path: Path):
    """Facts that don't parse aren't facts."""
    plan = plan_of()
    save(tmp_path, plan)
    path = tmp_path / "state" / "result" / "result.json"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(IntegrityError, match="StudyResult"):
        load_result(tmp_path / "state", plan_digest=digest(plan))


def test_a_model_that_is_not_finite_is_not_released(tmp_path: Path):
    """A diverged study ends with an error and without a result."""
    plan = plan_of("full")
    (tmp_path / "state").mkdir()
    architecture = Architecture.of(plan.model, features=5, classes=2)
    module = build_module(architecture, seed=2)
    save_base(tmp_path / "base", architecture, module)
    size = Layout.of(module).size
    with pytest.raises(FedMedError):
        save_result(
            tmp_path / "state", result_of(plan), plan=plan, base=tmp_path / "base", module=module,
            architecture=architecture, model=np.full(size, np.nan, np.float32),
            knowledge=Knowledge(anchor=np.zeros(size), fisher=np.zeros(size)),
        )  # fmt: skip
    assert load_result(tmp_path / "state", plan_digest=digest(plan)) is None


def test_the_card_states_the_promise_and_its_limits():
    """Budget, clip and noise as they were; who saw what; which data; and that nobody should treat patients by it."""
    plan = plan_of()
    card = card_of(plan)
    for text in (
        "# cardiology readmission", "epsilon 8.0 at delta 1e-05", "Clip norm 0.5, noise multiplier 1.25",
        "the coordinator saw each site's update", "a, b", "not a medical device", "PeftModel.from_pretrained",
        "Not stated. The consortium writes here", "rely on that site", "LoRA of rank 2", "fedavg", "1 of\n2 sites did",
        digest(plan), plan.base_digest, "over 2 sites in 4 rounds",
    ):  # fmt: skip
        assert text in card
    assert "protects nobody" not in card
    assert "may remember" not in card


def test_the_card_promises_nothing_without_privacy():
    """And warns of seeded noise, and says how a whole model is loaded."""
    plan = plan_of("full", privacy=PrivacySpec(trust_model="none"))
    card = card_of(plan)
    assert "None. The model may remember single patients; do not publish it." in card
    assert "epsilon" not in card
    assert "load_module('model'" in card
    assert "PeftModel" not in card
    seeded = plan_of(privacy=replace(PRIVATE, noise="simulated-seed"))
    assert "this is a simulation and protects nobody" in card_of(seeded)


def test_the_card_is_the_saved_readme(tmp_path: Path):
    """PEFT's own template is replaced, and its front matter names the library that loads the model."""
    plan = plan_of()
    save(tmp_path, plan)
    card = (tmp_path / "state" / "result" / "model" / "README.md").read_text()
    assert card == card_of(plan)
    assert card.startswith("---\nlibrary_name: peft\n")
