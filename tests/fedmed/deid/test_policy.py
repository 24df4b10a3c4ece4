"""What the policy does to each role: default-deny, and no option keeps an identifier."""

import dataclasses
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.data.schema import Column
from fedmed.deid.anonymity import QuasiIdentifier
from fedmed.deid.policy import DeidPolicy


def column(role: str, kind: str, **more: object) -> Column:
    """Return a valid column of this role and kind."""
    facts = {"number": {"centre": 1.0, "scale": 1.0, "low": 0.0, "high": 9.0}, "category": {"values": ("a", "b")}}
    return Column(name="x", kind=kind, role=role, **(facts.get(kind, {}) | more))


POLICIES = st.builds(
    DeidPolicy,
    dates=st.sampled_from(["shift", "month", "year", "drop"]),
    sensitive=st.sampled_from(["keep", "drop"]),
    keep=st.sampled_from([(), ("x",)]),
    k=st.sampled_from([1, 5]),
)


@given(
    POLICIES,
    st.sampled_from(["direct-identifier", "ignore"]),
    st.sampled_from(["number", "category", "binary", "date", "text", "identifier"]),
)
def test_identifiers_and_ignored_columns_leave_under_every_policy(policy: DeidPolicy, role: str, kind: str):
    """No option keeps a direct identifier, whatever it looks like."""
    assert policy.action(column(role, kind)) in {"drop", "drop-text"}


@given(POLICIES)
def test_free_text_leaves_under_every_policy(policy: DeidPolicy):
    """Free text is dropped whole."""
    assert policy.action(column("free-text", "text")) == "drop-text"


@pytest.mark.parametrize(
    ("role", "kind", "more", "action"),
    [
        ("patient-key", "identifier", {}, "pseudonymise"),
        ("quasi-identifier", "date", {}, "shift-date"),
        ("quasi-identifier", "number", {"unit": "years"}, "cap-age"),
        ("feature", "number", {"unit": "years"}, "cap-age"),
        ("feature", "number", {"unit": "mm Hg"}, "keep"),
        ("target", "category", {}, "keep"),
        ("sensitive", "category", {}, "drop"),
    ],
)
def test_each_role_has_its_action_by_default(role: str, kind: str, more: dict[str, str], action: str):
    """The default policy's table, row by row; an age is capped even where somebody called it a plain feature."""
    assert DeidPolicy().action(column(role, kind, **more)) == action


def test_options_change_exactly_their_cells():
    """`dates` and `sensitive` change the action of dates and of sensitive columns only."""
    columns = [column("quasi-identifier", "date"), column("sensitive", "category"), column("feature", "category")]
    assert [DeidPolicy(dates="drop").action(c) for c in columns] == ["drop", "drop", "keep"]
    assert [DeidPolicy(sensitive="keep").action(c) for c in columns] == ["shift-date", "keep", "keep"]


def test_digest_names_the_options():
    """Two policies have one digest exactly when they are equal."""
    assert DeidPolicy().digest == DeidPolicy().digest
    digests = {DeidPolicy().digest, DeidPolicy(dates="drop").digest, DeidPolicy(max_shift_days=60).digest}
    assert len(digests) == 3


AGE = QuasiIdentifier(column="age", hierarchy="age")
PLACE = QuasiIdentifier(column="place", hierarchy="address-cn")


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_quarantine_fraction": 1.0},
        {"suppression_limit": 1.0},
        {"suppression_limit": float("nan")},
        {"max_shift_days": 0},
        {"version": 1},
        {"k": 0},
        {"l_diversity": 0},
        {"l_diversity": 2, "k": 5},
        {"l_diversity": 2, "sensitive": "keep"},
        {"profile": "Our own"},
        {"floors": {"age": 5}},
        {"quasi_identifiers": (AGE, AGE)},
    ],
)
def test_a_policy_out_of_range_cannot_exist(wrong: dict[str, object]):
    """A policy that exists is valid."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DeidPolicy(**wrong)


def test_districts_need_company_or_a_floor():
    """A district is read by its form, so it passes only in classes of k patients, or as its city."""
    with pytest.raises(ValueError, match="k must be above 1 for the districts"):
        DeidPolicy(quasi_identifiers=(PLACE,))
    DeidPolicy(quasi_identifiers=(PLACE,), k=2)
    assert DeidPolicy(quasi_identifiers=(PLACE,), floors={"address-cn": 1}).ladders[0].at_least == 1


def test_a_place_passes_only_through_its_ladder():
    """Without one it is dropped, whatever its role."""
    facts = SimpleNamespace(name="place", role="quasi-identifier", kind="address-cn", unit=None)
    assert DeidPolicy().action(facts) == "drop"
    assert DeidPolicy(quasi_identifiers=(PLACE,), k=5).action(facts) == "place"


def test_free_text_passes_only_where_it_is_cleaned():
    """`clean` is an action of its own, and of columns with the role free text only."""
    policy = DeidPolicy(free_text="clean")
    assert policy.action(column("free-text", "text")) == "clean-text"
    assert policy.action(SimpleNamespace(name="x", role="feature", kind="text", unit=None)) == "drop-text"


def test_a_policy_cannot_be_changed():
    """Policies are frozen, so the digest in the audit stays true."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        DeidPolicy().dates = "drop"


@given(POLICIES)
def test_an_identifier_leaves_even_where_a_schema_calls_it_a_feature(policy: DeidPolicy):
    """The policy does not lean on the schema's own checks."""
    facts = SimpleNamespace(name="x", role="feature", kind="identifier", unit=None)
    assert policy.action(facts) == "drop"
