"""Equal records have equal bytes; a wrong key is named with what came and what it takes."""

import math
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.errors import ConfigError, IntegrityError
from fedmed.records import (
    AggregationSpec,
    ContinualSpec,
    DataSpec,
    ModelSpec,
    OptimiserSpec,
    Plan,
    PrivacySpec,
    TrainingSpec,
    build,
    canonical_json,
    decode,
    digest,
)

PLAN = Plan(
    study="心内科 readmission",
    seed=7,
    data=DataSpec(schema="s", schema_digest="0" * 64, target="t", cohort_column="ward", cohort=("a", "b")),
    model=ModelSpec(family="tabular-transformer", adapter="lora"),
    base_digest="1" * 64,
    training=TrainingSpec(rounds=3, local_steps=2, sample_rate=0.25, learning_rate=0.5),
    privacy=PrivacySpec(trust_model="local", epsilon=8.0, noise_multiplier=1.5, release_noise_multiplier=4.5),
    aggregation=AggregationSpec(kind="insecure"),
    continual=ContinualSpec(
        strength=4.0, release_fisher=True, earlier=(DataSpec(schema="s", schema_digest="0" * 64, target="u"),)
    ),
)


def plain(record: object) -> Any:
    """Return the record as the mappings and lists that a JSON reader returns."""
    return msgspec.json.decode(canonical_json(record))


def changed(path: str, value: object) -> Any:
    """Return the plain plan with the entry at a dotted path set."""
    whole = plain(PLAN)
    *parents, last = path.split(".")
    at = whole
    for part in parents:
        at = at[part]
    at[last] = value
    return whole


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(entries: dict[str, object], random: Any):
    """Two machines that filled a mapping in another order agree byte for byte."""
    keys = list(entries)
    random.shuffle(keys)
    shuffled = {key: entries[key] for key in keys}
    assert canonical_json(shuffled) == canonical_json(entries)
    assert digest(shuffled) == digest(entries)


def test_canonical_json_is_utf8_without_white_space():
    """Chinese names stay readable, and nothing depends on a pretty-printer."""
    data = canonical_json(PLAN)
    assert "心内科 readmission".encode() in data
    assert b'","' in data
    assert b'": ' not in data
    assert b"\n" not in data


def test_a_plan_survives_its_own_bytes():
    """What a site decodes is what the coordinator planned, with the same digest."""
    again = decode(canonical_json(PLAN), Plan)
    assert again == PLAN
    assert digest(again) == digest(PLAN)


@given(
    st.builds(
        TrainingSpec,
        rounds=st.integers(1, 1000),
        local_steps=st.integers(1, 1000),
        sample_rate=st.floats(1e-9, 1),
        learning_rate=st.floats(1e-9, 1e6),
        momentum=st.floats(0, 0.999),
        average_from=st.floats(0, 1),
    )
)
def test_every_float_survives_its_own_bytes(spec: TrainingSpec):
    """No digit of a rate is lost on the way to a site."""
    assert decode(canonical_json(spec), TrainingSpec) == spec


@pytest.mark.parametrize(
    "change",
    [{"study": "another"}, {"seed": 8}, {"base_digest": "2" * 64}, {"data": replace(PLAN.data, normalisation="site")},
     {"training": replace(PLAN.training, rounds=4)}, {"privacy": replace(PLAN.privacy, noise="simulated-seed")},
     {"continual": replace(PLAN.continual, earlier=())}],
)  # fmt: skip
def test_whatever_changes_in_a_plan_changes_its_digest(change: dict[str, Any]):
    """A site that checked the digest has checked the whole plan."""
    assert digest(replace(PLAN, **change)) != digest(PLAN)


def test_a_whole_number_equals_its_float_in_bytes_too():
    """Equal records have equal bytes and digests, also where a script wrote 1 for 1.0."""
    integer = replace(PLAN.privacy, clip_norm=1)
    assert integer == replace(PLAN.privacy, clip_norm=1.0)
    assert canonical_json(integer) == canonical_json(replace(PLAN.privacy, clip_norm=1.0))


@pytest.mark.parametrize(
    ("valid", "field"),
    [
        (PLAN.model, "lora_alpha"),
        (PLAN.privacy, "noise_multiplier"),
        (PLAN.privacy, "release_noise_multiplier"),
        (PLAN.aggregation, "round_timeout_s"),
        (PLAN.continual, "fisher_clip_norm"),
    ],
)
def test_infinity_is_not_a_setting(valid: Any, field: str):
    """A record that exists can be sent: JSON has no infinity, so it is refused where it is set."""
    with pytest.raises(ValueError, match=field):
        replace(valid, **{field: math.inf})


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("study", 3, ("study", "expected", "str", "3")),
        ("training.rounds", "ten", ("training.rounds", "expected", "int", "'ten'")),
        ("training.rounds", "3", ("training.rounds", "expected", "int", "'3'")),
        ("training.rounds", 2.5, ("training.rounds", "expected", "int", "2.5")),
        ("training.rounds", True, ("training.rounds", "expected", "int", "True")),
        ("training.sample_rate", None, ("training.sample_rate", "expected", "float", "None")),
        ("training.sample_rate", 1.5, ("training", "sample_rate must be in (0, 1]", "1.5")),
        (
            "model.family",
            "cnn",
            (
                "model.family",
                "linear, mlp, tabular-transformer, survival, ngrams, text-encoder, causal-lm, image-encoder, fusion",
                "'cnn'",
            ),
        ),
        ("data.cohort", "ward", ("data.cohort", "expected", "array", "'ward'")),
        ("continual.earlier", [{"schema": "s"}], ("continual.earlier[0]", "missing", "schema_digest")),
        ("privacy", 8, ("privacy", "expected", "object", "8")),
        ("privacy", [8], ("privacy", "expected", "object", "list")),
    ],
)
def test_a_wrong_value_is_named_with_what_came_and_what_it_takes(path: str, value: object, said: tuple[str, ...]):
    """The dotted key comes first, then the type or range that it takes and the value that came, in one line."""
    key, *rest = said
    with pytest.raises(ConfigError) as caught:
        build(changed(path, value), Plan)
    text = str(caught.value)
    assert text.startswith(key)
    assert all(part in text for part in rest), text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("path", "known"),
    [("epsilon", "study"), ("privacy.sigma", "noise_multiplier"), ("training.lr", "learning_rate")],
)
def test_an_unknown_key_is_named_with_the_known_ones(path: str, known: str):
    """A typing mistake doesn't pass as a default."""
    with pytest.raises(ConfigError, match=f"^{path}: unknown key; expected one of: .*{known}"):
        build(changed(path, 1), Plan)


def test_an_unknown_key_in_a_list_is_named_by_position():
    """The third entry's mistake is found in the third entry."""
    entry = plain(PLAN.continual.earlier[0])
    with pytest.raises(ConfigError, match=r"^continual\.earlier\[1\]\.tagret: unknown key"):
        build(changed("continual.earlier", [entry, entry | {"tagret": "x"}]), Plan)


def test_a_missing_key_is_named():
    """What has no default must be given."""
    whole = plain(PLAN)
    del whole["training"]["rounds"]
    with pytest.raises(ConfigError, match=r"^training: .*missing.*rounds"):
        build(whole, Plan)


def test_the_place_of_a_record_is_part_of_the_name():
    """A record that stands under a key of a larger file is named from the top."""
    with pytest.raises(ConfigError, match=r"^plan\.training\.rounds: .*int.*'x'"):
        build(plain(PLAN.training) | {"rounds": "x"}, TrainingSpec, at="plan.training")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"1", b'{"study": 1}', b'"plan"'])
def test_bytes_of_something_else_are_an_integrity_error(data: bytes):
    """Stored or received bytes that aren't the record are never half-read."""
    with pytest.raises(IntegrityError, match="expected a Plan record as JSON"):
        decode(data, Plan)


def test_bytes_that_are_not_utf8_are_an_integrity_error():
    """One flipped bit in a name is damage like any other."""
    with pytest.raises(IntegrityError):
        decode(canonical_json(PLAN).replace(b"readmission", b"readm\xffssion"), Plan)


@given(st.data())
def test_a_cut_plan_is_an_integrity_error(data: st.DataObject):
    """No beginning of a plan passes for a plan, also where the cut falls inside a character."""
    whole = canonical_json(replace(PLAN, study="readmission"))
    with pytest.raises(IntegrityError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))], Plan)


def test_a_plan_of_another_version_is_refused():
    """A later form of the plan is not read as this one."""
    with pytest.raises(IntegrityError, match=r"version must be 1.*2"):
        decode(canonical_json(changed("version", 2)), Plan)


def test_no_privacy_carries_no_promise():
    """A plan without protection can't name an epsilon or a noise."""
    with pytest.raises(ValueError, match="epsilon must be null"):
        PrivacySpec(trust_model="none", epsilon=1.0)
    with pytest.raises(ValueError, match="noise_multiplier must be 0"):
        PrivacySpec(trust_model="none", noise_multiplier=1.0)
    assert not PrivacySpec(trust_model="none").private


@pytest.mark.parametrize(
    "change",
    [{"epsilon": None}, {"epsilon": 0.0}, {"epsilon": math.inf}, {"epsilon": math.nan}, {"noise_multiplier": 0.0},
     {"noise_multiplier": math.nan}, {"release_noise_multiplier": 0.0}, {"delta": 0.0}, {"delta": 1.0},
     {"clip_norm": 0.0}, {"clip_norm": math.inf}, {"clip_norm": math.nan}],
)  # fmt: skip
def test_a_promise_has_noise_and_a_finite_budget(change: dict[str, Any]):
    """Private training without noise, clip or budget isn't private, so there is no such record."""
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(PLAN.privacy, **change)


@pytest.mark.parametrize("family", ["linear", "mlp"])
def test_lora_needs_attention(family: Any):
    """The message says which model or adapter to choose instead."""
    with pytest.raises(ValueError, match=r"use model=tabular_transformer, or adapter=full"):
        ModelSpec(family=family, adapter="lora")


def test_heads_divide_the_width():
    """Attention splits the width evenly."""
    with pytest.raises(ValueError, match="got 30 and 4"):
        ModelSpec(family="tabular-transformer", adapter="full", width=30, heads=4)


@pytest.mark.parametrize("change", [{"cohort": ()}, {"cohort_column": None}])
def test_a_cohort_has_a_column_and_values(change: dict[str, Any]):
    """Half a filter would silently select everybody."""
    with pytest.raises(ValueError, match="set together"):
        replace(PLAN.data, **change)


@pytest.mark.parametrize("study", ["", "two\nlines", "bell\x07"])
def test_a_study_has_a_printable_name(study: str):
    """A name can't forge a line in a log."""
    with pytest.raises(ValueError, match="printable"):
        replace(PLAN, study=study)


ADAPTED = ModelSpec(family="tabular-transformer", adapter="lora")


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ({"lora_rule": "flora"}, {}, "needs the factors of every site, and a secure sum hides them"),
        ({"lora_rule": "fedsvd", "adapter": "full"}, {}, "where the whole model is trained"),
        ({"lora_rule": "fedsvd", "lora_rank": 64}, {}, "lora_rank must be at most width"),
        ({"lora_rule": "fedsvd"}, {}, "continual.fisher must be delta-w"),
        ({"lora_rule": "rolora"}, {"optimiser": OptimiserSpec(kind="fedadam")}, "optimiser.kind must be fedavg"),
        ({"lora_rule": "rolora"}, {"training": {"average_from": 0.5}}, "average_from must be 1"),
        ({"lora_rule": "fedit"}, {"continual": {"fisher": "delta-w"}}, "one factor of an adapter"),
        ({"lora_rule": "mr-mtl"}, {}, "it is the pull to the mean"),
        (
            {"lora_rule": "mr-mtl"},
            {
                "training": {"proximal": 0.5, "local_steps": 1, "sample_rate": 1.0},
                "privacy": {"trust_model": "distributed"},
                "aggregation": {"kind": "secure"},
            },
            "privacy.trust_model must be local with lora_rule mr-mtl",
        ),
        ({}, {"training": {"proximal": 4.0}}, "must be below 2 / learning_rate"),
        ({}, {"continual": {"penalty": -1.0}}, "penalty must be at least 0"),
    ],
)
def test_a_rule_is_refused_where_it_would_not_hold(model: Any, changes: Any, message: str):
    """Each combination that is not exact, or has no meaning, is refused with what to do instead."""

    def refused() -> Plan:
        parts = {
            name: replace(getattr(PLAN, name), **change) if isinstance(change, dict) else change
            for name, change in changes.items()
        }
        return replace(PLAN, model=replace(ADAPTED, **model), **parts)

    with pytest.raises(ValueError, match=message):
        refused()
