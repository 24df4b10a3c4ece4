"""`fedmed site machine`: what a site computes on is seen and set, and a plan that it can't compute is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from federation import MemoryChannel, build_consortium

from fedmed.errors import ConfigError, UsageError
from fedmed.exchange import Failure, Task
from fedmed.files import held_alone
from fedmed.learning import local
from fedmed.learning.local import Trained
from fedmed.records import MachineSpec, canonical_json, digest
from fedmed_site import cli, machine_cli, training
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.policy import SitePolicy

POLICY = SitePolicy(cap_epsilon=8.0, delta=1e-5)
no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a graphics card")


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """Return a new site."""
    return SiteHome.create(tmp_path / "home", SiteRecord(name="north", policy=POLICY), pseudonym_key=bytes(32))


def run(home: SiteHome, *words: str) -> int:
    """Run the command."""
    return cli.site(["machine", *words, "--home", str(home.root)])


def test_it_says_what_is_set_and_found(home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """A new site takes what is there, without a bound, and names it."""
    assert run(home, "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert "device cpu, memory without a bound" in shown
    assert "fp32 bf16 fp16" in shown


def test_it_is_set_and_kept_beside_the_policy(home: SiteHome):
    """Device and memory are changed one by one, and the policy stays."""
    run(home, "--device", "cpu")
    run(home, "--memory-gb", "1.5")
    assert home.record() == SiteRecord(name="north", policy=POLICY, machine=MachineSpec(device="cpu", memory_gb=1.5))
    run(home, "--memory-gb", "none")
    assert home.record().machine == MachineSpec(device="cpu")


@pytest.mark.parametrize("words", [("--memory-gb", "0"), ("--memory-gb", "much"), ("--device", "tpu")])
def test_a_mistake_is_one_line_and_changes_nothing(home: SiteHome, words: tuple[str, ...]):
    """Numbers above zero and known devices alone."""
    with pytest.raises(UsageError):
        run(home, *words)
    assert home.record().machine == MachineSpec()


@no_card
def test_a_card_that_is_not_there_is_not_set(home: SiteHome):
    """Every study would be refused."""
    with pytest.raises(ConfigError, match="torch finds none here"):
        run(home, "--device", "cuda")
    assert home.record().machine == MachineSpec()


def test_a_task_that_runs_is_not_disturbed(home: SiteHome, monkeypatch: pytest.MonkeyPatch):
    """The record is changed between tasks."""
    monkeypatch.setattr(machine_cli, "PATIENCE_S", 0.05)
    with held_alone(home.lock_path, patience_s=0), pytest.raises(UsageError, match="a task runs"):
        run(home, "--device", "cpu")


def test_a_record_from_before_there_were_machines_is_read(home: SiteHome):
    """A site that was made by an older version takes what is there."""
    text = home.record_path.read_bytes()
    home.record_path.write_bytes(text.replace(b'"machine":{"device":"auto","memory_gb":null},', b""))
    assert b"machine" not in home.record_path.read_bytes()
    assert home.record().machine == MachineSpec()


def test_a_precision_that_a_site_can_not_compute_is_refused_before_the_charge(tmp_path: Path):
    """The coordinator is told which, at the first question and at every other, and the ledger is as it was."""
    consortium = build_consortium(tmp_path, sites=3)
    home = SiteHome.open(consortium.homes[0])
    home.record_path.write_bytes(canonical_json(replace(home.record(), machine=MachineSpec(device="cpu"))))
    plain = consortium.plan()
    plan = replace(plain, model=replace(plain.model, family="tabular-transformer", adapter="lora", precision="fp8"))
    channel = MemoryChannel(homes=consortium.homes, plan_json=canonical_json(plan))
    ledger = next(home.ledgers.glob("*.jsonl")).read_bytes()
    for action in ("query.describe", "train.fit"):
        answer = channel.agent(0).respond(canonical_json(plan), Task(action=action, plan_digest=digest(plan), round=0))  # type: ignore[arg-type]
        assert isinstance(answer, Failure)
        if action == "query.describe":
            assert "fp8 can't be computed on" in answer.reason
    assert next(home.ledgers.glob("*.jsonl")).read_bytes() == ledger


def test_gradients_that_are_not_finite_are_counted_in_the_sites_own_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They count as zero in the sum; how many there were stays here, and no answer says it."""

    def with_two(*given: Any, **named: Any) -> Trained:
        return replace(local.train_locally(*given, **named), nonfinite=2)

    monkeypatch.setattr(training, "train_locally", with_two)
    consortium = build_consortium(tmp_path, sites=3)
    runner = consortium.runner(consortium.plan(), tmp_path / "state")
    runner.run()
    for root in consortium.homes:
        assert "2 gradients of records were not finite and counted as zero" in SiteHome(root).log_path.read_text()
