"""The plans that a configuration means, and a noise that pays for everything sites are asked for."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from federation import build_consortium, tiny_dataset
from hypothesis import given
from hypothesis import strategies as st

from fedmed.errors import ConfigError
from fedmed.privacy.engine import PrvAccountant
from fedmed.privacy.plan import Event, merge
from fedmed.records import ModelSpec, Normalisation, OptimiserSpec, PrivacySpec, canonical_json, decode, digest
from fedmed_server.result import load_knowledge
from fedmed_sim.plans import SharedNoise, events, plan_of, privacy_spec, sequence_digest, without_consolidation
from fedmed_sim.settings import (
    PlanSettings,
    PrivacySettings,
    Scenario,
    SecaggSettings,
    SimulationSettings,
    StudySettings,
    views,
)
from fedmed_site.agent import SiteAgent

STUDIES = tuple(
    StudySettings(name=f"study of {ward}", target="ill", cohort_column="ward", cohort=(ward,))
    for ward in ("north", "south")
)
SETTINGS = SimulationSettings(
    seed=5,
    engine="inprocess",
    workers=1,
    out="runs",
    resume=None,
    plan=PlanSettings(
        rounds=2,
        local_steps=3,
        sample_rate=0.5,
        learning_rate=0.5,
        momentum=0.0,
        average_from=1.0,
        proximal=0.0,
        normalisation="public",
        consolidation=4.0,
        fisher_clip_norm=0.25,
        fisher_decay=0.5,
    ),
    model=ModelSpec(family="linear", adapter="full"),
    data=tiny_dataset(),
    scenario=Scenario(studies=STUDIES),
    privacy=PrivacySettings(
        trust_model="local", epsilon=8.0, delta=1e-5, clip_norm=1.0, release_noise_ratio=3.0, noise="system"
    ),
    secagg=SecaggSettings(
        kind="insecure",
        min_sites=2,
        sites_per_round=None,
        attempts=3,
        round_timeout_s=600.0,
        phase_timeout_s=120.0,
        max_corrupt=0,
        max_weight=None,
        bits=32,
        clip=4.0,
    ),
    optimiser=OptimiserSpec(),
)


class SquareRootAccountant:
    """A toy: epsilon is the root of the summed steps over squared noise; monotone and cheap."""

    def epsilon(self, history: Sequence[Event], delta: float) -> float:
        """Return the toy's epsilon."""
        return math.sqrt(sum(e.steps * e.sample_rate**2 / e.noise_multiplier**2 for e in history))


def changed(**changes: Any) -> SimulationSettings:
    """Return the settings with entries of their parts replaced: `plan__rounds=3`."""
    whole = SETTINGS
    for key, value in changes.items():
        part, _, field = key.partition("__")
        whole = replace(whole, **{part: replace(getattr(whole, part), **{field: value}) if field else value})
    return whole


def plan(settings: SimulationSettings, index: int, privacy: PrivacySpec | None = None, **changes: Any) -> Any:
    """Return a study's plan."""
    arguments = {"base_digest": "1" * 64, "knowledge_digest": None} | changes
    return plan_of(settings, index, privacy=privacy or PrivacySpec(trust_model="none"), **arguments)


@pytest.mark.parametrize("normalisation", ["public", "site", "federated"])
@pytest.mark.parametrize("studies", [1, 2])
def test_events_are_what_the_agents_charge(tmp_path: Path, normalisation: Normalisation, studies: int):
    """Every release of a whole run, on real ledgers: training, Fisher information and statistics, no more, no less."""
    settings = changed(plan__normalisation=normalisation, scenario__studies=STUDIES[:studies])
    privacy = PrivacySpec(
        trust_model="local", epsilon=1e6, noise_multiplier=2.0, release_noise_multiplier=6.0, noise="system"
    )
    consortium = build_consortium(tmp_path, sites=2, rows=160)
    knowledge = None
    for index in range(studies):
        study = plan(settings, index, privacy, base_digest=consortium.base_digest)
        state = tmp_path / f"study-{index}"
        consortium.runner(study, state, knowledge=knowledge).run()
        knowledge = load_knowledge(state)
    expected = merge(events(settings, 2.0))
    for home in consortium.homes:
        charged = merge(SiteAgent.open(home).ledger("tiny").events())
        assert [(e.sample_rate, e.steps) for e in charged] == [(e.sample_rate, e.steps) for e in expected]
        assert [e.noise_multiplier for e in charged] == pytest.approx([e.noise_multiplier for e in expected])


@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 1), st.floats(0.1, 9),
    st.sampled_from(["public", "site", "federated"]),
)  # fmt: skip
def test_events_count_steps_and_releases(  # noqa: PLR0917  drawn by Hypothesis
    studies: int, rounds: int, steps: int, rate: float, ratio: float, normalisation: Normalisation
):
    """All steps of all studies at the training noise, and each release at its own."""
    settings = changed(
        plan__rounds=rounds,
        plan__local_steps=steps,
        plan__sample_rate=rate,
        plan__normalisation=normalisation,
        privacy__release_noise_ratio=ratio,
        scenario__studies=tuple(replace(STUDIES[0], name=str(number)) for number in range(studies)),
    )
    training, *releases = events(settings, 1.5)
    assert training == Event(noise_multiplier=1.5, sample_rate=rate, steps=rounds * steps * studies)
    count = studies - 1 + (0 if normalisation == "public" else studies)
    assert sum(release.steps for release in releases) == count
    assert all((r.sample_rate, r.noise_multiplier) == (1.0, 1.5 * ratio) for r in releases)


@given(st.floats(0.1, 50), st.integers(1, 50), st.floats(0.5, 10), st.sampled_from(["public", "site", "federated"]))
def test_calibrated_noise_spends_at_most_the_budget(
    epsilon: float, rounds: int, ratio: float, normalisation: Normalisation
):
    """Over the whole run, and nearly all of it: less noise would spend more."""
    settings = changed(
        plan__rounds=rounds,
        plan__normalisation=normalisation,
        privacy__epsilon=epsilon,
        privacy__release_noise_ratio=ratio,
    )
    accountant = SquareRootAccountant()
    spec = privacy_spec(settings, accountant)
    assert accountant.epsilon(events(settings, spec.noise_multiplier), spec.delta) <= epsilon
    assert accountant.epsilon(events(settings, spec.noise_multiplier * 0.999), spec.delta) > epsilon * 0.999
    assert spec.release_noise_multiplier == spec.noise_multiplier * ratio


def test_the_real_accountant_agrees_with_the_promise():
    """With the accountant that sites charge by: at most epsilon, at the delta that the plan states."""
    settings = changed(plan__rounds=1)
    spec = privacy_spec(settings, PrvAccountant())
    spent = PrvAccountant().epsilon(events(settings, spec.noise_multiplier), spec.delta)
    assert 7.9 < spent <= 8.0
    assert (spec.epsilon, spec.delta, spec.clip_norm, spec.noise) == (8.0, 1e-5, 1.0, "system")


def test_privacy_off_promises_nothing():
    """No epsilon, no noise."""
    settings = changed(privacy=replace(SETTINGS.privacy, trust_model="none", epsilon=None))
    spec = privacy_spec(settings, SquareRootAccountant())
    assert (spec.private, spec.epsilon, spec.noise_multiplier) == (False, None, 0.0)


def test_a_first_study_has_nothing_to_consolidate_and_leaves_knowledge():
    """No pull, no earlier views; its Fisher information is released for the next study."""
    first = plan(SETTINGS, 0).continual
    assert (first.strength, first.release_fisher, first.earlier, first.knowledge_digest) == (0.0, True, (), None)


def test_a_last_study_consolidates_and_releases_no_fisher():
    """It is pulled towards the earlier one, evaluated on its view too, and pays for nothing that nobody uses."""
    last = plan(SETTINGS, 1, knowledge_digest="c" * 64).continual
    assert (last.strength, last.release_fisher, last.knowledge_digest) == (4.0, False, "c" * 64)
    assert last.earlier == views(SETTINGS)[:1]
    assert (last.fisher_clip_norm, last.decay) == (0.25, 0.5)


def test_a_single_study_does_neither():
    """There is no study before or after it."""
    only = plan(changed(scenario__studies=STUDIES[:1]), 0).continual
    assert (only.strength, only.release_fisher, only.earlier) == (0.0, False, ())


def test_a_plan_says_everything_that_was_set():
    """A site needs nothing else, and two studies differ in name and view only where they should."""
    privacy = privacy_spec(SETTINGS, SquareRootAccountant())
    first, second = (plan(SETTINGS, index, privacy) for index in range(2))
    assert first.study == "study of north"
    assert first.data == views(SETTINGS)[0]
    assert first.data.cohort == ("north",)
    assert first.data.schema_digest == SETTINGS.data.schema.digest
    assert (first.seed, first.base_digest, first.privacy) == (5, "1" * 64, privacy)
    assert (first.training, first.model, first.aggregation) == (
        SETTINGS.plan.training(), SETTINGS.model, SETTINGS.secagg.spec(),
    )  # fmt: skip
    assert digest(first) != digest(second)


@pytest.mark.parametrize("index", [0, 1])
def test_a_plan_survives_its_own_bytes(index: int):
    """What is computed here is what sites read there."""
    found = plan(SETTINGS, index, privacy_spec(SETTINGS, SquareRootAccountant()))
    assert decode(canonical_json(found), type(found)) == found


def test_the_naive_arm_differs_in_consolidation_only():
    """Same data, model, training and noise: the comparison shows what EWC does and nothing else."""
    ewc = plan(SETTINGS, 1, knowledge_digest="c" * 64)
    naive = without_consolidation(ewc)
    assert not without_consolidation(plan(SETTINGS, 0)).continual.release_fisher
    assert (naive.continual.strength, naive.continual.release_fisher) == (0.0, False)
    assert naive.study == "study of south (naive)"
    back = replace(naive, study=ewc.study, continual=replace(naive.continual, strength=ewc.continual.strength))
    assert back == ewc
    assert digest(naive) != digest(ewc)


def test_a_run_is_named_by_its_plans_in_order():
    """Another plan, or the same ones in another order, is another run."""
    first, second = plan(SETTINGS, 0), plan(SETTINGS, 1)
    digests = {sequence_digest(plans) for plans in ([first, second], [second, first], [first], [])}
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": 0}, "workers must be at least 1"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": 2**31}, "seed must be in"),
        ({"scenario__studies": ()}, "at least one study"),
        ({"scenario__studies": (STUDIES[0], STUDIES[0])}, "two studies have the same name"),
        ({"scenario__sites": 0}, "sites must be at least 1"),
        ({"scenario__patients_per_site": 49}, "at least 50"),
        ({"plan__rounds": 0}, "rounds must be at least 1"),
        ({"plan__sample_rate": 1.5}, "sample_rate"),
        ({"plan__consolidation": -1.0}, "consolidation must be at least 0"),
        ({"plan__fisher_clip_norm": 0.0}, "fisher_clip_norm"),
        ({"privacy__epsilon": None}, "use privacy=off"),
        ({"privacy__epsilon": math.inf}, "epsilon must be above 0"),
        ({"privacy__trust_model": "none"}, "epsilon must be null with privacy=off"),
        ({"privacy__delta": 0.0}, "delta must be in"),
        ({"privacy__clip_norm": math.inf}, "clip_norm must be above 0"),
        ({"privacy__release_noise_ratio": 0.0}, "release_noise_ratio must be above 0"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(change: dict[str, Any], message: str):
    """The settings themselves refuse what a plan, a site or an accountant would refuse an hour later."""
    with pytest.raises(ValueError, match=message):
        changed(**change)


def test_an_impossible_decay_is_found_before_anything_runs():
    """Like every other number of the plan."""
    with pytest.raises(ValueError, match="decay"):
        changed(plan__fisher_decay=1.5)


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("sites", [3, 5, 7])
def test_the_rosters_policy_has_room_for_every_site(bits: Literal[16, 32], sites: int):
    """The finest rounding whose sums can't wrap, with half of the ring left free where noise is shared."""
    secagg = replace(SETTINGS.secagg, kind="secure", min_sites=3, bits=bits)
    for shared in (False, True):
        policy = secagg.policy(sites=sites, max_weight=512.0, shared_noise=shared)
        for segment in policy.segments:
            assert segment.has_headroom(2 * sites if shared and segment.name != "aux" else sites)
        delta = policy.segments[0]
        finer = replace(delta, fraction_bits=delta.fraction_bits + 1)
        assert not finer.has_headroom(2 * sites if shared else sites)


def test_a_ring_too_small_for_the_sites_is_refused():
    """In one line that names the key and the cure."""
    secagg = replace(SETTINGS.secagg, kind="secure", min_sites=3, bits=16, clip=400.0)
    with pytest.raises(ConfigError, match=r"secagg\.bits: a ring of 16 bits has no room for 100 sites"):
        secagg.policy(sites=100, max_weight=512.0)


def test_shared_noise_costs_what_its_distance_costs():
    """A coarse ring takes no less noise than a fine one, and with either the budget is kept."""
    privacy = replace(SETTINGS.privacy, trust_model="distributed")
    plan_settings = replace(SETTINGS.plan, local_steps=1, sample_rate=1.0)
    secagg = replace(SETTINGS.secagg, kind="secure", min_sites=3)
    settings = replace(SETTINGS, privacy=privacy, plan=plan_settings, secagg=secagg)
    found = []
    for max_weight in (2.0**8, 2.0**14):
        policy = secagg.policy(sites=4, max_weight=max_weight, shared_noise=True)
        shared = SharedNoise(policy=policy, size=10, features=3)
        spec = privacy_spec(settings, PrvAccountant(), shared=shared)
        charged = events(settings, spec.noise_multiplier, distance=spec.distance)
        assert PrvAccountant().epsilon(charged, 1e-5) <= 8.0
        found.append((spec.noise_multiplier, spec.distance))
    assert found[0][1] < found[1][1]
    assert found[0][0] <= found[1][0]


def test_only_what_a_run_releases_counts_for_the_distance_of_its_noise():
    """A single study releases no Fisher information, so its noise isn't held to the ring that this would need."""
    assert len(SETTINGS.scenario.studies) == 2
    one = replace(SETTINGS, scenario=replace(SETTINGS.scenario, studies=SETTINGS.scenario.studies[:1]))
    secagg = replace(SETTINGS.secagg, kind="secure", min_sites=3)
    policy = secagg.policy(sites=4, max_weight=2.0**12, shared_noise=True)
    shared = SharedNoise(policy=policy, size=10_000, features=3)
    plan = replace(SETTINGS.plan, fisher_clip_norm=0.01, normalisation="public")
    alone, before = (shared.distance(replace(run, plan=plan), 3.0) for run in (one, SETTINGS))
    assert alone < before / 5, (alone, before)
    assert shared.distance(replace(one, plan=replace(plan, normalisation="federated")), 3.0) >= alone
