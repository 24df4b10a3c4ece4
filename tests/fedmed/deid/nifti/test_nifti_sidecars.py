"""Sidecars: what is listed passes if it is of its sort, and nothing else does."""

import json

import numpy as np
import pytest

from fedmed.deid.nifti.quarantine import NiftiError
from fedmed.deid.nifti.sidecars import clean_sidecar, names_head
from fedmed_sim.phantoms.nifti import NiftiForm, draw_nifti
from fedmed_sim.phantoms.people import draw_person


def token(number: str) -> str | None:
    """Return a mark in the place of a patient's number."""
    return f"token of {len(number)}" if number.strip() else None


def cleaned(**keys: object) -> dict[str, object]:
    """Return a sidecar of these keys, cleaned."""
    data, _ = clean_sidecar(json.dumps(keys).encode(), token=token)
    return dict(json.loads(data))


@pytest.mark.parametrize("seed", range(6))
def test_nothing_planted_comes_out_and_what_is_listed_stays(seed: int) -> None:
    """Of a sidecar with 21 keys that tell, the physics stay with their values and the patient's token is new."""
    rng = np.random.default_rng(seed)
    drawn = draw_nifti(rng, draw_person(rng, "zh" if seed % 2 else "en"), name="scan", form=NiftiForm())
    data, counts = clean_sidecar(drawn.sidecar, token=token)
    planted = [one for one in drawn.secrets if one.where.startswith("sidecar")]
    assert len(planted) >= 18
    assert all(one.is_in(drawn.sidecar) for one in planted)
    assert [one.where for one in drawn.secrets if one.text and one.is_in(data)] == []
    found = json.loads(data)
    assert found.pop("patient").startswith("token")
    assert found.pop("ImageType") == ["ORIGINAL", "PRIMARY"]
    assert found == json.loads(json.dumps(drawn.kept))
    assert counts["keys_kept"] + counts["keys_dropped"] == len(json.loads(drawn.sidecar))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("EchoTime", "0.03"),
        ("EchoTime", True),
        ("EchoTime", 19_610_412),
        ("EchoTime", [0.01]),
        ("RepetitionTime", {"of": 2}),
        ("SliceTiming", [0, "Eleanor"]),
        ("SliceTiming", [0.1] * 5000),
        ("Modality", "Eleanor"),
        ("Modality", ["MR"]),
        ("PhaseEncodingDirection", "j; Eleanor"),
        ("BodyPartExamined", "CHEST of Eleanor"),
        ("ScanningSequence", "ELEANOR"),
        ("ImageType", ["ELEANOR"]),
        ("MTState", "Eleanor"),
        ("AcquisitionTime", "10:12:13"),
        ("SeriesNumber", 7),
        ("echotime", 0.03),
        ("ConversionSoftwareVersion", "v1.0"),
    ],
)
def test_a_value_of_another_sort_is_dropped(key: str, value: object) -> None:
    """Texts in the place of numbers, numbers that may be a day, other words and unlisted keys don't pass."""
    assert cleaned(**{key: value}) == {}


def test_words_of_the_standard_pass_alone() -> None:
    """Of words put together the known ones stay, in the forms that converters write."""
    found = cleaned(ScanningSequence="GR\\IR", SequenceVariant="SK_SP_Eleanor", ScanOptions=["FS", "Eleanor"])
    assert found == {"ScanningSequence": "GR_IR", "SequenceVariant": "SK_SP", "ScanOptions": ["FS"]}


def test_a_patient_is_a_token_or_nothing() -> None:
    """A number or a text becomes the site's token; an empty one, or a list, nothing."""
    assert cleaned(PatientID="MR 12") == {"patient": "token of 5"}
    assert cleaned(PatientID=1234) == {"patient": "token of 4"}
    assert cleaned(PatientID=" ") == cleaned(PatientID=["MR 12"]) == cleaned(patient="Eleanor") == {}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"7", b"\xff\xfe{}", b'{"EchoTime": NaN', b"[" * 100_000, b'{"a": "' + b"x" * (1 << 20)]
)
def test_what_is_no_object_is_refused(data: bytes) -> None:
    """No JSON, no object, another encoding, too deep or too large: one reason, and no value of it."""
    with pytest.raises(NiftiError) as refused:
        clean_sidecar(data, token=token)
    assert refused.value.reason == "sidecar"


def test_not_a_number_is_no_number() -> None:
    """JSON as Python reads it knows NaN and Infinity; the output knows none of them."""
    data, _ = clean_sidecar(b'{"EchoTime": NaN, "FlipAngle": Infinity, "KVP": 120}', token=token)
    assert json.loads(data) == {"KVP": 120}


@pytest.mark.parametrize(
    "part", ["HEAD", "Brain", "head and neck", "HEADNECK", "头颅", "WHOLE BODY", "Sinuses", "inner ear", ["BRAIN"]]
)
def test_a_sidecar_speaks_of_the_head(part: object) -> None:
    """By whatever word and in whatever spelling converters and technicians do so."""
    assert names_head(json.dumps({"BodyPartExamined": part}).encode())
    assert names_head(json.dumps({"BodyPart": part}).encode())


@pytest.mark.parametrize("part", ["CHEST", "C SPINE", "HEART", "FOREARM", "", None])
def test_a_sidecar_speaks_of_something_else(part: object) -> None:
    """A word that only holds the letters of another is none of the head."""
    assert not names_head(json.dumps({"BodyPartExamined": part}).encode())


def test_a_number_too_large_for_a_double_is_dropped() -> None:
    """A whole number of hundreds of digits is no physical size, and no accident either."""
    data, counts = clean_sidecar(b'{"EchoTime": 1' + b"0" * 400 + b', "KVP": 1e400}', token=token)
    assert json.loads(data) == {}
    assert counts == {"keys_kept": 0, "keys_dropped": 2}
