"""Dates: one shift per patient, exact intervals, valid values, nothing that is no date."""

import datetime as dt
import io
from collections.abc import Callable

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from fedmed.deid.dicom.dates import move, shift_date, shift_datetime, valid_time, valid_zone
from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import clean_bytes

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]
Site = Callable[..., Keyed]
DAYS = st.integers(-365, 365)
DATES = st.dates(dt.date(1900, 1, 1), dt.date(2100, 12, 31))


def cleaned(dataset: Dataset, written: Writer, site: Keyed) -> Dataset:
    """Return the cleaned form of a dataset."""
    return pydicom.dcmread(io.BytesIO(clean_bytes(written(dataset), site).data))


@given(DATES, DATES, DAYS)
def test_intervals_are_exact(one: dt.date, other: dt.date, days: int):
    """Two dates of a patient keep their distance in days."""
    moved = [shift_date(f"{date:%Y%m%d}", days) for date in (one, other)]
    assert None not in moved
    first, second = (dt.datetime.strptime(date or "", "%Y%m%d").date() for date in moved)  # noqa: DTZ007
    assert first - second == one - other


@given(DATES, DAYS, st.sampled_from(["", "10", "1015", "101530", "101530.123456"]), st.sampled_from(["", "+0800"]))
def test_a_date_time_keeps_its_clock_and_zone(date: dt.date, days: int, clock: str, zone: str):
    """Only the day of a date-time moves."""
    assert shift_datetime(f"{date:%Y%m%d}{clock}{zone}", days) == f"{shift_date(f'{date:%Y%m%d}', days)}{clock}{zone}"


@pytest.mark.parametrize(
    ("vr", "text"),
    [("DA", "20230229"), ("DA", "2023"), ("DA", "Qxz"), ("DA", "99991231"), ("DT", "2023"), ("DT", "202402"),
     ("DT", "20240229+9900"), ("DT", "20240229Qxz"), ("TM", "256000"), ("TM", "10:15Qxz"), ("TM", "Qxz")],
)  # fmt: skip
def test_what_is_no_date_is_refused(vr: str, text: str):
    """Invalid dates, partial dates that days cannot move, and text give nothing."""
    assert move(vr, text, 1) is None
    assert valid_time("10:15:30") == "10:15:30"
    assert valid_zone("+0800") == "+0800"
    assert valid_zone("Qxz") is None


def test_one_shift_per_patient_at_every_depth(make: Maker, written: Writer, keyed: Site):
    """D6: every date of a patient, in all files and items, moves by one number of days; patients differ."""
    shifts = {}
    for patient in range(6):
        for date in ("20240229", "20231231"):
            item = Dataset()
            item.ObservationDateTime, item.Date = f"{date}101500.5+0800", date
            dataset = make(
                PatientID=f"P{patient}", StudyDate=date, AcquisitionDateTime=f"{date}235959", ContentSequence=[item]
            )
            result = cleaned(dataset, written, keyed(clean_structured_content=True))
            inner = result.ContentSequence[0]
            found = {result.StudyDate, result.AcquisitionDateTime[:8], inner.ObservationDateTime[:8], inner.Date}
            assert len(found) == 1
            assert inner.ObservationDateTime[8:] == "101500.5+0800"
            assert (result.StudyTime, result.AcquisitionDateTime[8:]) == ("101500", "235959")
            assert not result.PatientBirthDate
            shifts.setdefault(patient, set()).add(_days(found.pop(), date))
    assert all(len(days) == 1 and 0 < abs(min(days)) <= 365 for days in shifts.values())
    assert len({min(days) for days in shifts.values()}) > 3


def test_a_patient_written_differently_has_one_shift_and_one_token(make: Maker, written: Writer, keyed: Site):
    """D6: spaces, case and empty trailing components of the ID make no other patient."""
    results = [cleaned(make(PatientID=number), written, keyed()) for number in ("A^B", "a^b^", " A^B^^ ", "A^B^")]
    assert len({(result.StudyDate, result.PatientID) for result in results}) == 1
    assert results[0].PatientID == keyed().pseudonyms.token("A^B")


@pytest.mark.parametrize("number", ["A^B^", " ａ^b＾", "Zähler^9", "王^001^^"])
def test_a_patient_is_one_in_dicom_and_in_tables(make: Maker, written: Writer, keyed: Site, number: str):
    """E1: token and shift of a PatientID are those of the same text in a table or a note, at every depth."""
    item = Dataset()
    item.PatientID = number
    dataset = make(SpecificCharacterSet="ISO_IR 192", PatientID=number, SharedFunctionalGroupsSequence=[item])
    site = keyed()
    result = cleaned(dataset, written, site)
    assert result.PatientID == site.pseudonyms.token(number) == site.pseudonyms.token(number.rstrip("^＾"))
    assert result.SharedFunctionalGroupsSequence[0].PatientID == result.PatientID
    days = site.pseudonyms.shift_days(number.rstrip("^＾"), limit=site.options.max_shift_days)
    assert _days(result.StudyDate, "20240229") == days


def test_without_an_id_the_name_tells_the_patient(make: Maker, written: Writer, keyed: Site):
    """A file without PatientID is grouped by name and birth date, else by study."""
    named = [cleaned(make(PatientID="", PatientName=name), written, keyed()) for name in ("A^B", "a^b^")]
    assert named[0].PatientID == named[1].PatientID
    bare = [cleaned(make(PatientID=None, PatientName="", StudyInstanceUID=f"1.2.9.{n}"), written, keyed())
            for n in (1, 1, 2)]  # fmt: skip
    assert len({result.PatientID for result in bare}) == 2


def test_an_invalid_date_is_removed_not_published(make: Maker, written: Writer, keyed: Site):
    """D6: an invalid date falls back to the Basic Profile under a shift; text is not kept even in keep mode."""
    for mode in ("shift", "keep"):
        dataset = make(StudyDate="Qxz^Q", SeriesDate="QXZ", AcquisitionDateTime="QXZ")
        data = clean_bytes(written(dataset), keyed(dates=mode)).data
        assert b"QXZ" not in data.upper()
    result = cleaned(make(StudyDate="20230229", SeriesDate="20230229"), written, keyed())
    assert result.StudyDate == ""
    assert "SeriesDate" not in result


@pytest.mark.parametrize(("vr", "text"), [
    ("DA", "13900147000"), ("DA", "88888888"), ("DA", "20230230"), ("DA", "20240101-20240202"), ("DT", "20230230"),
    ("DT", "202413"), ("DT", "33010219611123001X"), ("DT", "330102196111230017"), ("TM", "330102196111230017"),
    ("TM", "246000"), ("TM", "10:75"),
])  # fmt: skip
def test_an_invalid_date_is_removed_where_dates_are_kept(make: Maker, written: Writer, keyed: Site, vr: str, text: str):
    """D6: a telephone or identity number in a date is not published because the site keeps dates."""
    name = {"DA": "SeriesDate", "DT": "AcquisitionDateTime", "TM": "SeriesTime"}[vr]
    item = Dataset()
    item.ObservationDateTime = text
    dataset = make(ContentSequence=[item], TimezoneOffsetFromUTC=text, **{name: text})
    assert text.encode() in written(dataset)
    cleaned_bytes = clean_bytes(written(dataset), keyed(dates="keep", clean_structured_content=True)).data
    assert text.encode() not in cleaned_bytes


def test_valid_dates_stay_to_the_byte_where_dates_are_kept(make: Maker, written: Writer, keyed: Site):
    """`keep` changes no form: the old form with points, months, zones and several values come out as they went in."""
    values = {
        "SeriesDate": "2024.02.29", "AcquisitionDateTime": "202402+0800", "SeriesTime": "10:15:30",
        "CalibrationTime": ["101500", "111500.5"], "TimezoneOffsetFromUTC": "+0800", "InstanceCoercionDateTime": "2024",
        "CalibrationDate": ["20240229", "20240301"],
    }  # fmt: skip
    result = cleaned(make(**values), written, keyed(dates="keep"))
    assert {name: result.get(name) for name in values} == values


def test_dates_and_times_are_removed_or_kept_as_the_mode_says(make: Maker, written: Writer, keyed: Site):
    """`remove` leaves no date or time; `keep` leaves both as they were; age is the table's business."""
    removed = cleaned(make(), written, keyed(dates="remove"))
    kept = cleaned(make(), written, keyed(dates="keep"))
    assert (removed.StudyDate, removed.StudyTime, removed.ContentDate) == ("", "", "")
    assert (kept.StudyDate, kept.StudyTime, kept.ContentDate) == ("20240229", "101500", "20240229")


def _days(after: str, before: str) -> int:
    one, other = (dt.datetime.strptime(text, "%Y%m%d") for text in (after, before))  # noqa: DTZ007
    return (one - other).days
