"""The table: every published row is there, and an option changes its own cells only."""

import typing
from collections.abc import Mapping

import pytest
from pydicom._dicom_dict import DicomDictionary

from fedmed.deid.dicom.options import DicomOptions
from fedmed.deid.dicom.quarantine import REASONS, Reason
from fedmed.deid.dicom.table import Family, Rule, allowed, profile, rules

FAMILIES: tuple[Family, ...] = typing.get_args(Family)
COLUMNS = {
    "rtnUIDsOpt": "uids", "rtnDevIdOpt": "device", "rtnInstIdOpt": "institution", "rtnPatCharsOpt": "patient",
    "rtnLongFullDatesOpt": "dates-full", "rtnLongModifDatesOpt": "dates-modified", "cleanDescOpt": "descriptors",
    "cleanStructContOpt": "structure", "cleanGraphOpt": "graphics",
}  # fmt: skip
SPECIAL = {"50000000/FF000000": "50xxxxxx", "60003000/FF00FFFF": "60xx3000", "60004000/FF00FFFF": "60xx4000"}
PLAIN = DicomOptions(dates="remove")
OPTIONS = {
    "uids": DicomOptions(dates="remove", retain_uids=True),
    "device": DicomOptions(dates="remove", retain_device=True),
    "institution": DicomOptions(dates="remove", retain_institution=True),
    "patient": DicomOptions(dates="remove", retain_patient_characteristics=True),
    "dates-full": DicomOptions(dates="keep"),
    "dates-modified": DicomOptions(dates="shift"),
    "descriptors": DicomOptions(dates="remove", clean_descriptors=True),
    "structure": DicomOptions(dates="remove", clean_structured_content=True),
    "graphics": DicomOptions(dates="remove", clean_graphics=True),
}


def test_every_published_row_is_ours(table_rows: list[dict[str, str]]):
    """Tag, Basic Profile action and option cells equal the published Table E.1-1, row by row."""
    ours = {row.tag: row for row in profile()}
    assert len(ours) == len(profile()) == len(table_rows)
    for published in table_rows:
        row = ours[SPECIAL.get(published["tag"], published["tag"])]
        assert row.action == published["basic"], row
        assert row.cells() == {name: published[column] for column, name in COLUMNS.items() if column in published}, row


def test_a_compound_resolves_to_one_of_its_own_actions():
    """No family of SOP classes gets an action that the row does not offer."""
    for row in profile():
        offered = row.action.replace("*", "").split("/")
        assert {row.basic(family) for family in FAMILIES} <= set(offered), row


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("family", ["IMAGE", "OTHER"])
def test_an_option_changes_the_rules_of_its_cells_and_no_other(option: str, family: Family):
    """The rules that differ with the option on are those of rows with its cell (U* rows map inside in both)."""
    before, after = rules(PLAIN, family), rules(OPTIONS[option], family)
    changed = {tag for tag in before.keys() | after.keys() if _rule(before, tag) != _rule(after, tag)}
    celled = {int(row.tag, 16) for row in profile() if option in row.cells() and row.action != "X/Z/U*"}
    assert changed == celled


def test_the_allow_list_gives_a_reason_for_each_attribute_and_none_is_in_the_table():
    """Default-deny has exceptions only where somebody wrote down why."""
    assert all(entry.reason for entry in allowed())
    assert not {entry.tag for entry in allowed()} & {row.tag for row in profile()}


def test_unlisted_attributes_pass_by_kind_or_by_the_allow_list_only():
    """Outside the table, text and bytes have a rule only where the allow-list names them."""
    listed = {int(row.tag, 16) for row in profile() if "x" not in row.tag} | {int(row.tag, 16) for row in allowed()}
    free = {rule.vr for tag, rule in rules(PLAIN, "OTHER").items() if tag not in listed}
    assert free <= {"AT", "DS", "FD", "FL", "IS", "SL", "SQ", "SS", "SV", "UI", "UL", "US", "US or SS", "UV"}


def test_retired_attributes_and_repeating_groups_have_no_rule():
    """What the standard has retired passes only where a row or the allow-list names it; curves and overlays never."""
    listed = {int(row.tag, 16) for row in profile() if "x" not in row.tag}
    found = set(rules(DicomOptions(clean_graphics=True, clean_descriptors=True), "OTHER"))
    assert not {tag for tag, entry in DicomDictionary.items() if entry[3]} & (found - listed)
    assert not [tag for tag in found if 0x5000 <= tag >> 16 <= 0x50FF or 0x6000 <= tag >> 16 <= 0x60FF]


def test_every_reason_has_a_meaning():
    """The quarantine list explains each reason that a file can have."""
    assert set(REASONS) == set(typing.get_args(Reason))


def test_options_have_one_digest_and_refuse_what_cannot_be():
    """Equal options have equal digests; others differ; nonsense is refused."""
    assert DicomOptions().digest == DicomOptions().digest != PLAIN.digest
    with pytest.raises(ValueError, match="max_shift_days"):
        DicomOptions(max_shift_days=0)
    with pytest.raises(ValueError, match="trusted_pixels"):
        DicomOptions(trusted_pixels=("1.2.3",))


def _rule(found: Mapping[int, Rule], tag: int) -> tuple[object, ...] | None:
    rule = found.get(tag)
    return None if rule is None else (rule.action, rule.vr, rule.check)
