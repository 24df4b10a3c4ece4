"""LoRA rules over the real secure sum: the product that the coordinator holds against the mean of the sites' own."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import PRIVATE, SECURE, WARDS, Consortium, build_consortium, twin_of
from safetensors.numpy import load_file

from fedmed.config import compose
from fedmed.errors import IntegrityError
from fedmed.exchange import Answer, Task, answer_from_bytes
from fedmed.learning.ewc import Knowledge
from fedmed.learning.rules import LoraRounds
from fedmed.learning.weights import weight_layout
from fedmed.models import Architecture, attach_adapter, build_module, load_module, save_base
from fedmed.models.lora import factors_of, is_a, layer_of, round_layouts
from fedmed.records import AggregationSpec, ContinualSpec, LoraRule, ModelSpec, Plan, digest
from fedmed.secagg.roster import sign_roster
from fedmed.secagg.roster_file import roster_to_bytes
from fedmed_server.checkpoint import load_progress
from fedmed_server.result import load_knowledge
from fedmed_sim.settings import SimulationSettings
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome
from fedmed_site.personal import PersonalModels
from fedmed_site.replies import HEAD_BYTES

MODEL = ModelSpec(family="tabular-transformer", adapter="lora", width=8, depth=1, heads=2, lora_rank=2)

CLEAR = AggregationSpec(kind="insecure", min_sites=3)
FINEST = compose(SimulationSettings, ("secagg=secure",)).secagg.policy(sites=4, max_weight=100.0)
"""The ring of a default simulation."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """Four prepared sites that hold a small transformer; it is copied, not used."""
    found = build_consortium(tmp_path_factory.mktemp("consortium"), sites=4, rows=100)
    architecture = Architecture.of(MODEL, features=3, classes=2)
    shutil.rmtree(found.base)
    base_digest = save_base(found.base, architecture, build_module(architecture, seed=3))
    for home in found.homes:
        shutil.copytree(found.base, SiteHome(home).models / base_digest)
    roster = replace(found.roster, serial=2, policy=FINEST)
    for home in found.homes:
        signed = roster_to_bytes(sign_roster(roster, found.consortium_key))
        key = found.consortium_key.public_key().public_bytes_raw()
        SiteAgent.open(home).membership.join(key, signed, now=datetime.now(UTC))
    return replace(found, base_digest=base_digest, roster=roster)


@pytest.fixture
def consortium(whole: Consortium, tmp_path: Path) -> Consortium:
    """Return a fresh copy of the consortium."""
    root = tmp_path / "consortium"
    shutil.copytree(whole.root, root)
    homes = tuple(root / home.relative_to(whole.root) for home in whole.homes)
    return replace(whole, root=root, homes=homes, base=root / "base")


def plan_of(consortium: Consortium, rule: LoraRule, *, rounds: int = 1, **changes: Any) -> Plan:
    """Return a plan of that rule over the secure sum."""
    proximal = 0.5 if rule == "mr-mtl" else 0.0
    training = replace(consortium.plan().training, rounds=rounds, local_steps=4, learning_rate=2.0, proximal=proximal)
    changes.setdefault("continual", ContinualSpec(strength=0.0, release_fisher=False))
    return consortium.plan(
        **({"aggregation": SECURE, "model": replace(MODEL, lora_rule=rule), "training": training} | changes)
    )


def products(module: Any, spec: ModelSpec, model: np.ndarray, frozen: np.ndarray, number: int) -> np.ndarray:
    """Return B A of every layer of a model in the layout of round `number`, flattened, in float64."""
    trained, others = round_layouts(module, spec, number=number)
    parts = trained.parts(model.astype(np.float64))
    if others.names:
        parts |= others.parts(frozen.astype(np.float64))
    names = [factors_of(str(layer_of(name))) for name in parts if is_a(name)]
    return np.concatenate([(parts[b] @ parts[a]).ravel() for a, b, _ in sorted(names)])


def measured(consortium: Consortium, plan: Plan, state: Path) -> tuple[float, int]:
    """Run a study; return |delta-W - mean(B_i A_i)| / |mean| after its last round, and bytes of an update."""
    channel = consortium.channel(plan)
    consortium.runner(plan, state, channel=channel).run()
    _, module = load_module(consortium.base, expected_digest=plan.base_digest)
    module = attach_adapter(module, plan.model, seed=plan.seed)
    last = plan.training.rounds - 1
    start = next(task.arrays for _, task, _ in channel.seen if task.arrays and task.round == last and task.works)
    seeded = LoraRounds(module, plan.model).frozen
    frozen = start.get("frozen", seeded)
    own, weights = [], []
    for home in consortium.homes:
        stored = SiteHome(home).replies / digest(plan) / f"train.fit-{last:06d}.reply"
        answer = answer_from_bytes(stored.read_bytes()[HEAD_BYTES:])
        model = start["model"].astype(np.float64) + answer.arrays["mean"]
        own.append(products(module, plan.model, model, frozen, last))
        weights.append(float(answer.facts["weight"]))
    progress = load_progress(state / "checkpoint.tensors", plan_digest=digest(plan))
    assert progress is not None
    found = products(
        module, plan.model, progress.model, frozen if progress.frozen is None else progress.frozen, last + 1
    )
    wanted = np.average(own, axis=0, weights=weights)
    assert np.abs(wanted).max() > 1e-3
    assert len(set(weights)) > 1
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)), 4 * len(start["model"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "rounds"),
    [("ffa", 2), ("fedsvd", 2), ("rolora", 2), ("rolora", 3), ("mr-mtl", 2)],
)
def test_the_product_at_the_coordinator_is_the_mean_of_the_products(
    consortium: Consortium, tmp_path: Path, rule: LoraRule, rounds: int
) -> None:
    """Through the ring, weighted by records, to the rounding of the secure sum: after rounds that train B or A."""
    error, size = measured(consortium, plan_of(consortium, rule, rounds=rounds), tmp_path / "state")
    print(f"{rule}, round {rounds}: relative error {error:.1e}, {size} bytes of update")  # noqa: T201  for pytest -s
    assert error <= 1e-5


def test_the_mean_of_both_factors_is_not_exact(consortium: Consortium, tmp_path: Path) -> None:
    """FedIT, the baseline: the product of the means is another matrix than the mean of the products."""
    error, size = measured(consortium, plan_of(consortium, "fedit", rounds=2), tmp_path / "state")
    print(f"fedit, round 2: relative error {error:.1e}, {size} bytes of update")  # noqa: T201  for pytest -s
    assert error > 1e-3


def test_a_refresh_from_orthonormal_rows_is_a_rotation(consortium: Consortium, tmp_path: Path) -> None:
    """Without privacy and consolidation FedSVD learns FFA's very function: it sees the same directions, turned."""
    twin = twin_of(consortium, tmp_path / "twin")
    last = {}
    for name, rule, held in (("svd", "fedsvd", consortium), ("ffa", "ffa", twin)):
        plan = plan_of(held, rule, rounds=2, aggregation=CLEAR)  # type: ignore[arg-type]
        held.runner(plan, tmp_path / name).run()
        _, module = load_module(held.base, expected_digest=plan.base_digest)
        module = attach_adapter(module, plan.model, seed=plan.seed)
        found = load_knowledge(tmp_path / name)
        assert found.frozen is not None
        last[name] = products(module, plan.model, found.anchor, found.frozen, 0), found.frozen
    assert np.allclose(last["svd"][0], last["ffa"][0], atol=1e-4 * np.abs(last["ffa"][0]).max())
    assert not np.allclose(last["svd"][1], last["ffa"][1], atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["fedsvd", "rolora"])
def test_a_killed_study_resumes_with_its_factors(consortium: Consortium, tmp_path: Path, rule: LoraRule) -> None:
    """Killed in its second round, it ends with the very model of a study that was never killed, and adapter files."""
    twin = twin_of(consortium, tmp_path / "twin")
    plan = plan_of(consortium, rule, rounds=2, privacy=PRIVATE)
    twin.runner(plan, tmp_path / "whole").run()
    channel = consortium.channel(plan)

    def die(_address: int, task: Task) -> None:
        if task.round == 1 and task.action == "query.certify":
            raise KeyboardInterrupt

    channel.before = die
    with pytest.raises(KeyboardInterrupt):
        consortium.runner(plan, tmp_path / "killed", channel=channel).run()
    consortium.runner(plan, tmp_path / "killed").run()
    whole, killed = (load_knowledge(tmp_path / name) for name in ("whole", "killed"))
    assert np.allclose(whole.anchor, killed.anchor, atol=1e-6)
    assert whole.frozen is not None
    assert killed.frozen is not None
    assert np.allclose(whole.frozen, killed.frozen, atol=1e-6)
    stored = load_file(tmp_path / "killed" / "result" / "model" / "adapter_model.safetensors")
    kept = sorted(value.ravel().tolist() for name, value in stored.items() if "lora_A" in name)
    assert kept == sorted(part.tolist() for part in np.split(killed.frozen.astype(np.float32), len(kept)))


@pytest.mark.slow
def test_each_site_keeps_a_model_of_its_own(consortium: Consortium, tmp_path: Path) -> None:
    """It is pulled to the mean, which is all that the coordinator gets, and is left at the site as an adapter."""
    spread = {}
    for mu in (0.05, 0.9):
        held = twin_of(consortium, tmp_path / f"twin-{mu}")
        plan = plan_of(held, "mr-mtl", rounds=2, privacy=PRIVATE)
        plan = replace(plan, training=replace(plan.training, proximal=mu, learning_rate=1.0))
        channel = held.channel(plan)
        held.runner(plan, tmp_path / f"state-{mu}", channel=channel).run()
        own, weights = [], []
        for home in held.homes:
            folder = home / "personal" / digest(plan)
            assert load_file(folder / "model" / "adapter_model.safetensors")
            own.append(PersonalModels(home / "personal").last(digest(plan)))
            weights.append(len(SiteAgent.open(home).datasets.load(plan.data, "train").labels))
            stages = [record.stage for record in SiteAgent.open(home).evaluations.read(digest(plan))]
            assert stages.count("personal") == 1
        mean = np.average(own, axis=0, weights=weights)
        released = load_knowledge(tmp_path / f"state-{mu}").anchor
        assert np.allclose(released, mean, atol=1e-6)
        spread[mu] = float(np.linalg.norm(np.asarray(own) - mean))
        for _, _, reply in channel.seen:
            assert isinstance(reply, Answer)
            assert set(reply.arrays) <= {"0", "1", "2"}
    assert spread[0.05] > 1.1 * spread[0.9] > 0.0


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["ffa", "fedsvd"])
def test_a_second_study_remembers_products(consortium: Consortium, tmp_path: Path, rule: LoraRule) -> None:
    """With importance of weights, the closed form ends nearer to the products that mattered to study 1.

    Distances are measured as `sum F (B A - B* A*)^2`, with the Fisher information that study 1 released.
    """
    measure = ContinualSpec(strength=0.0, release_fisher=True, fisher="delta-w", fisher_clip_norm=100.0)
    wards = [replace(consortium.plan().data, cohort_column="ward", cohort=(ward,)) for ward in WARDS]
    first = plan_of(consortium, rule, rounds=2, data=wards[0], continual=measure, aggregation=CLEAR)
    consortium.runner(first, tmp_path / "first").run()
    knowledge = load_knowledge(tmp_path / "first")
    assert knowledge.fisher.max() > 0
    _, module = load_module(consortium.base, expected_digest=first.base_digest)
    module = attach_adapter(module, first.model, seed=first.seed)
    importance = fisher_of_products(module, knowledge.fisher)
    assert knowledge.frozen is not None
    target = products(module, first.model, knowledge.anchor, knowledge.frozen, 0)
    scale = 0.4 / max(1e-9, float(knowledge.fisher.max()))
    away = {}
    for name, changes in (
        ("naive", {}),
        ("closed form", {"strength": 50 * scale}),
    ):
        held = twin_of(consortium, tmp_path / f"twin {name}")
        continual = replace(measure, release_fisher=False, **changes)  # type: ignore[arg-type]
        plan = plan_of(held, rule, rounds=2, data=wards[1], continual=continual, aggregation=CLEAR)
        held.runner(plan, tmp_path / name, knowledge=knowledge).run()
        found = load_knowledge(tmp_path / name)
        assert found.frozen is not None
        moved = products(module, plan.model, found.anchor, found.frozen, 0) - target
        away[name] = float((importance * moved**2).sum())
    assert away["naive"] > 1.5 * away["closed form"], away


def fisher_of_products(module: Any, fisher: np.ndarray) -> np.ndarray:
    """Return the importance of the entries of B A, in the order of `products`."""
    parts = weight_layout(module).parts(fisher)
    names = sorted((layer_of(name), name) for name in parts if layer_of(name))
    return np.concatenate([parts[name].ravel() for _, name in names])


def test_knowledge_of_other_factors_or_of_another_kind_is_refused(consortium: Consortium, tmp_path: Path) -> None:
    """An anchor is a model only with the frozen factors it was learnt with."""
    plan = plan_of(consortium, "ffa")
    _, module = load_module(consortium.base, expected_digest=plan.base_digest)
    rounds = LoraRounds(attach_adapter(module, plan.model, seed=plan.seed), plan.model)
    zeros, other = np.zeros(rounds.size), np.zeros_like(rounds.frozen)
    for knowledge, message in (
        (Knowledge(anchor=zeros, fisher=zeros, frozen=other), "another model"),
        (Knowledge(anchor=zeros, fisher=zeros, frozen=rounds.frozen, kind="delta-w"), "expected earlier knowledge of"),
    ):
        with pytest.raises(IntegrityError, match=message):
            consortium.runner(plan, tmp_path / "state", knowledge=knowledge).run()
