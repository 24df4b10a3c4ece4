"""The roster and its policy: signed by the consortium, pinned by every site."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.errors import IntegrityError, ProtocolError
from fedmed.records import canonical_json, decode
from fedmed.secagg.roster import Policy, RosterEntry, Segment, SignedRoster, sign_roster, verify_roster

CONSORTIUM = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
COORDINATOR = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)


def test_a_signed_roster_survives_its_json_and_verifies(bench: Any):
    """What the consortium signed comes back from its canonical JSON, equal and verified."""
    roster = bench.Cohort(3).roster
    signed = decode(canonical_json(sign_roster(roster, CONSORTIUM)), SignedRoster)
    assert verify_roster(signed, CONSORTIUM.public_key(), least_serial=1) == roster
    assert verify_roster(signed, CONSORTIUM.public_key(), least_serial=1).digest() == roster.digest()


def test_a_roster_of_the_coordinator_is_refused(bench: Any):
    """Another key's signature, even over a valid roster, is refused."""
    signed = sign_roster(bench.Cohort(3).roster, COORDINATOR)
    with pytest.raises(IntegrityError, match="expected the signature of the pinned consortium key"):
        verify_roster(signed, CONSORTIUM.public_key(), least_serial=1)


def test_any_change_of_a_signed_roster_is_refused(bench: Any):
    """A laxer policy, another key or another serial breaks the signature."""
    roster = bench.Cohort(4).roster
    signed = sign_roster(roster, CONSORTIUM)
    entry = replace(roster.sites[0], signing_key=b"k" * 32)
    for changed in (
        replace(roster, serial=2),
        replace(roster, sites=roster.sites[:3]),
        replace(roster, sites=(entry, *roster.sites[1:])),
        replace(roster, policy=replace(roster.policy, n_min=4)),
        replace(roster, policy=replace(roster.policy, max_corrupt=1)),
        replace(roster, policy=replace(roster.policy, max_weight=1.0)),
        replace(roster, policy=replace(roster.policy, segments=roster.policy.segments[:1])),
    ):
        with pytest.raises(IntegrityError, match="pinned consortium key"):
            verify_roster(replace(signed, roster=changed), CONSORTIUM.public_key(), least_serial=1)


def test_an_old_edition_is_refused(bench: Any):
    """A roster from before a site was struck off can't come back."""
    signed = sign_roster(replace(bench.Cohort(3).roster, serial=4), CONSORTIUM)
    with pytest.raises(IntegrityError, match="expected serial 5 or later, got 4"):
        verify_roster(signed, CONSORTIUM.public_key(), least_serial=5)


@pytest.mark.parametrize(
    ("size", "corrupt", "threshold"), [(3, 0, 2), (5, 0, 3), (10, 2, 7), (30, 9, 20), (100, 33, 67)]
)
def test_the_table_of_thresholds(bench: Any, size: Any, corrupt: Any, threshold: Any):
    """The floors are those documented, and two certified survivor sets would need more sites than there are."""
    policy = Policy(n_min=max(3, corrupt + 2), max_corrupt=corrupt, segments=(bench.DELTA, bench.AUX), max_weight=1.0)
    assert policy.threshold_floor(size) == threshold
    assert 2 * threshold > size + corrupt


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_min": 2}, "n_min must be at least max"),
        ({"n_min": 4, "max_corrupt": 3}, "n_min must be at least max"),
        ({"max_corrupt": -1}, "max_corrupt must be at least 0"),
        ({"segments": ()}, "at least one segment"),
        ({"max_weight": 0.0}, "max_weight must be above 0"),
        ({"max_weight": float("nan")}, "max_weight must be above 0"),
        ({"n_min": 40}, "segment half: no headroom for 40 sites"),
    ],
)
def test_a_policy_below_the_floors_does_not_exist(bench: Any, changes: Any, text: Any):
    """A lax policy can't be made, let alone signed."""
    with pytest.raises(ValueError, match=text):
        replace(bench.Cohort(3).roster.policy, **changes)


def test_segments_are_distinct_and_sane(bench: Any):
    """A segment's ring, kind, clip and scale fit each other; names are unique."""
    policy = bench.Cohort(3).roster.policy
    with pytest.raises(ValueError, match="distinct names"):
        Policy(n_min=3, max_corrupt=0, segments=policy.segments[:1] * 2, max_weight=1.0)
    good = {"name": "x", "bits": 32, "kind": "signed", "clip": 1.0, "fraction_bits": 20, "max_length": 4}
    for changes in (
        {"bits": 24},
        {"kind": "odd"},
        {"clip": 0.0},
        {"clip": float("inf")},
        {"fraction_bits": 32},
        {"kind": "integer"},
        {"max_length": 0},
        {"name": "two words"},
    ):
        with pytest.raises(ValueError, match=r"segment x|a name must"):
            Segment(**{**good, **changes})


def test_sites_are_ascending_with_distinct_keys(bench: Any):
    """One order, one name and one key per site."""
    roster = bench.Cohort(3).roster
    with pytest.raises(ValueError, match="ascending"):
        replace(roster, sites=roster.sites[::-1])
    twin = RosterEntry(site="zz", signing_key=roster.sites[0].signing_key)
    with pytest.raises(ValueError, match="distinct signing keys"):
        replace(roster, sites=(*roster.sites, twin))


def test_a_signature_of_a_stranger_is_refused(bench: Any):
    """A site outside the roster signs nothing."""
    with pytest.raises(ProtocolError, match="which has no zebra"):
        bench.Cohort(3).roster.verify("zebra", bytes(64), bytes(32), what="advert")
