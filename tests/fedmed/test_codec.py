"""What an older version wrote, signed or named by its digest is read, verifies, and is passed on as it was."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation import tiny_dataset
from older import LATER, older_plan, without
from plans import plan_of

from fedmed.crypto import statements
from fedmed.data.schema import DataSet, Schema
from fedmed.errors import ConfigError, IntegrityError, RefusedError
from fedmed.records import AsRead, Plan, build, canonical_json, decode, digest
from fedmed.secagg.roster import Policy, Roster, RosterEntry, Segment, sign_roster, verify_signature
from fedmed.secagg.roster_file import roster_from_bytes
from fedmed.signed_plans import SignedPlan, agree_to, launch, load_signed_plan, save_signed_plan, verify

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
PLAN = plan_of("tiny")


def sha256(data: bytes) -> str:
    """Return the digest of bytes."""
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("fields", [LATER, ("model.precision",), ("data.normalisation",), ("version",), ("optimiser",)])
def test_a_plan_of_an_older_version_keeps_its_bytes_and_digest(fields: tuple[str, ...]):
    """It is the plan with defaults in the new fields, named by what was written."""
    data = without(PLAN, *fields)
    plan = decode(data, Plan)
    assert plan == PLAN
    assert canonical_json(plan) == data
    assert digest(plan) == sha256(data) != digest(PLAN)
    assert canonical_json([{"a": plan}]) == b'[{"a":' + data + b"}]"
    assert canonical_json(decode(canonical_json(plan), Plan)) == data


def test_a_part_of_an_older_plan_keeps_its_form_too():
    """A view names what was kept of it by its digest."""
    plan = decode(without(PLAN, "data.normalisation"), Plan)
    assert canonical_json(plan.data) == without(PLAN.data, "normalisation")


def test_a_plan_that_is_changed_is_a_plan_of_this_version():
    """What was read stands for what was read alone."""
    older = older_plan(PLAN)
    assert canonical_json(replace(older, seed=9, data=PLAN.data)) == canonical_json(replace(PLAN, seed=9))
    assert digest(replace(older, seed=9)) != digest(older)


def test_this_versions_own_bytes_are_as_before():
    """A record that lacks nothing keeps nothing; what is made here has one form."""
    assert canonical_json(decode(canonical_json(PLAN), Plan)) == canonical_json(PLAN)
    sparse = json.loads(without(PLAN, *LATER))
    assert canonical_json(build(sparse, Plan)) == canonical_json(PLAN)  # YAML leaves out what it likes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"rounds":3', b'"rounds":4'),
        (b'"learning_rate":1.0', b'"learning_rate":1'),
        (b'{"aggregation"', b'{ "aggregation"'),
    ],
)
def test_other_bytes_are_another_plan(old: bytes, new: bytes):
    """A value, a form of a number or white space: what was signed is not what is read."""
    data = without(PLAN, *LATER)
    assert old in data
    changed = data.replace(old, new)
    signed = agree_to(decode(data, Plan), KEY)
    read = decode(changed, Plan)
    if b"{ " in new:  # white space alone: the same plan, but not the bytes that a site asks for
        assert canonical_json(read) == data != changed
        return
    assert digest(read) != digest(signed.plan)
    with pytest.raises(RefusedError, match="not signed"):
        verify(read, signed.signatures, consortium=KEY.public_key(), coordinator=None)


def test_unknown_and_missing_fields_are_refused_as_before():
    """Only what has a default may be missing, and nothing may be there that this version doesn't know."""
    with pytest.raises(IntegrityError, match="missing required field"):
        decode(without(PLAN, "seed"), Plan)
    newer = json.loads(canonical_json(PLAN)) | {"hope": 1}
    with pytest.raises(IntegrityError, match="unknown key"):
        decode(canonical_json(newer), Plan)


def test_a_field_that_was_not_at_its_default_is_missed():
    """Whoever takes it out of a signed plan has another plan."""
    plan = replace(PLAN, model=replace(PLAN.model, lora_alpha=3.0))
    signed = agree_to(plan, KEY)
    with pytest.raises(RefusedError, match="not signed"):
        verify(
            decode(without(plan, "model.lora_alpha"), Plan), signed.signatures, consortium=KEY.public_key(),
            coordinator=None,
        )  # fmt: skip


def test_a_signed_plan_of_an_older_version_is_carried_launched_and_verified(tmp_path: Path):
    """The consortium's signature stands for the bytes of then, also in a file that is written again."""
    older = older_plan(PLAN)
    signature = KEY.sign(b"FedMed-plan/v1/consortium\0" + bytes.fromhex(sha256(without(PLAN, *LATER))))
    agreed = agree_to(older, KEY)
    assert agreed.signatures.consortium == signature
    path = tmp_path / "plan.json"
    save_signed_plan(path, agreed)
    assert path.read_bytes() == without(agree_to(PLAN, KEY), *(f"plan.{field}" for field in LATER)).replace(
        _shown(agree_to(PLAN, KEY)), _shown(agreed)
    )
    launched = launch(load_signed_plan(path), OTHER)
    save_signed_plan(path, launched)
    again = load_signed_plan(path)
    verify(again.plan, again.signatures, consortium=KEY.public_key(), coordinator=OTHER.public_key())
    assert digest(again.plan) == sha256(without(PLAN, *LATER))


def _shown(signed: SignedPlan) -> bytes:
    """Return the signatures as they stand in the file."""
    return canonical_json(signed.signatures)


def test_a_data_set_of_an_older_version_keeps_its_schemas_digest():
    """Plans and the audit log name it."""
    dataset = tiny_dataset()
    data = without(dataset, "schema.clip", "schema.columns.0.required", "schema.header")
    read = decode(data, DataSet)
    assert read == dataset
    assert read.schema.digest == sha256(without(dataset.schema, "clip", "columns.0.required", "header"))
    assert read.schema.digest != dataset.schema.digest
    assert canonical_json(replace(read, root=None)) == data
    other = without(replace(dataset.schema, clip=3.0), "clip")
    assert decode(other, Schema).digest != replace(dataset.schema, clip=3.0).digest


def roster() -> Roster:
    """Return a roster of three sites."""
    segment = Segment(name="delta", bits=32, kind="signed", clip=4.0, fraction_bits=22, max_length=8)
    keys = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32).public_key() for n in (3, 4, 5)]
    entries = tuple(RosterEntry(site=f"h{n}", signing_key=key.public_bytes_raw()) for n, key in enumerate(keys))
    return Roster(serial=1, sites=entries, policy=Policy(n_min=3, max_corrupt=0, segments=(segment,), max_weight=9.0))


def test_a_roster_of_an_older_version_verifies_and_hashes_as_it_was_signed():
    """Also one of before there was a default that it lacks; a changed one does not."""
    older = decode(without(roster(), "valid_from", "valid_until", "version"), Roster)
    signed = sign_roster(older, KEY)
    assert signed.signature != sign_roster(roster(), KEY).signature
    file = canonical_json({
        "format": "fedmed-roster", "version": 1, "roster": json.loads(canonical_json(older)),
        "signature": json.loads(canonical_json(signed))["signature"],
    })  # fmt: skip
    read = roster_from_bytes(file)
    verify_signature(read, KEY.public_key())
    assert read.roster.digest() == older.digest() != roster().digest()
    with pytest.raises(IntegrityError):
        verify_signature(roster_from_bytes(file.replace(b'"serial":1', b'"serial":2')), KEY.public_key())


@dataclass(frozen=True, slots=True, kw_only=True)
class Early:
    """A statement's body as an older version had it."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Late(AsRead):
    """The same with a field that came later."""

    name: str
    share: float = 1.0


def test_a_statement_of_an_older_version_verifies_over_what_was_signed():
    """Receipts, kits, mandates and lists are statements; a changed one is refused, in old and new fields."""
    data = statements.sign("test", Early(name="north"), KEY)
    signed = statements.parse(data, "test", Late)
    assert signed.verify(KEY.public_key(), cure="ask") == Late(name="north")
    assert digest(signed.claim) == digest(Early(name="north"))
    for old, new in ((b"north", b"south"), (b'"name":"north"', b'"name":"north","share":2.0'),
                     (b'"name":"north"', b'"name":"north","share":1.0')):  # fmt: skip
        changed = data.replace(old, new)
        assert changed != data
        with pytest.raises(IntegrityError, match="signature is not its"):
            statements.parse(changed, "test", Late).verify(KEY.public_key(), cure="ask")
    with pytest.raises(IntegrityError, match="unknown key"):
        statements.parse(statements.sign("test", Late(name="north"), KEY), "test", Early)


def test_a_configuration_error_is_still_one_line():
    """What can't be read names its key."""
    with pytest.raises(ConfigError, match="name: expected str"):
        build({"name": 1}, Late)
