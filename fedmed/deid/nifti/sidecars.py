"""The JSON that converters write beside an image (BIDS), reduced to what an analysis of voxels needs.

Why it exists: dcm2niix writes the patient's name, number and birth date there if it is told to, and by default still
the times, the institution's devices and free text.

Rules:
    * Default-deny: a key passes if it is listed, and its value if it is of the listed sort: a number, a truth, or one
      of the words of the standard. No free text passes.
    * Numbers are bounded: a birth date or a record number is none of them.
    * The patient's number becomes the site's token, under `patient`, as in notes and tables.

What it does not do: check the numbers against the image.

Source: BIDS 1.10 (common metadata fields of MRI and PET), and the keys that dcm2niix writes.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Final

from fedmed.deid.nifti.quarantine import NiftiError

MAX_SIDECAR_BYTES: Final = 1 << 20
_MOST: Final = 1e6
_LONGEST_LIST: Final = 4096
_PATIENT: Final = "PatientID"

_NUMBERS: Final = frozenset({
    "MagneticFieldStrength", "ImagingFrequency", "RepetitionTime", "RepetitionTimeExcitation",
    "RepetitionTimePreparation", "RepetitionTimeInversion", "EchoTime", "EchoTime1", "EchoTime2", "EchoNumber",
    "InversionTime", "FlipAngle", "SliceThickness", "SpacingBetweenSlices", "NumberOfAverages", "EchoTrainLength",
    "PhaseEncodingSteps", "PhaseEncodingStepsNoPartialFourier", "PhaseEncodingStepsOutOfPlane", "AcquisitionMatrixPE",
    "ReconMatrixPE", "BaseResolution", "PercentPhaseFOV", "PercentSampling", "PartialFourier", "PixelBandwidth",
    "DwellTime", "EffectiveEchoSpacing", "EstimatedEffectiveEchoSpacing", "DerivedVendorReportedEchoSpacing",
    "TotalReadoutTime", "EstimatedTotalReadoutTime", "ParallelReductionFactorInPlane",
    "ParallelReductionFactorOutOfPlane", "MultibandAccelerationFactor", "VendorReportedEchoSpacing", "WaterFatShift",
    "TriggerDelayTime", "NumberOfVolumesDiscardedByScanner", "DelayTime", "XRayTubeCurrent", "XRayExposure",
    "ExposureTime", "KVP", "GantryTilt", "CTDIvol", "PhilipsRescaleSlope", "PhilipsRescaleIntercept",
    "PhilipsScaleSlope", "UsePhilipsFloatNotDisplayScaling", "PhaseResolution",
})  # fmt: skip
_LISTS: Final = frozenset({
    "SliceTiming", "ImageOrientationPatientDICOM", "FrameTimesStart", "FrameDuration", "EchoTimes", "VolumeTiming",
})  # fmt: skip
_TRUTHS: Final = frozenset({"MTState", "SpoilingState", "NonlinearGradientCorrection", "PhaseEncodingPolarityGE"})
_AXES: Final = frozenset(f"{axis}{sign}" for axis in "ijk" for sign in ("", "-"))
_BODY_PARTS: Final = frozenset({
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "ARM", "BRAIN", "BREAST", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "CSPINE",
    "ELBOW", "FOOT", "FOREARM", "HAND", "HEAD", "HEADNECK", "HEART", "HIP", "JAW", "KIDNEY", "KNEE", "LEG", "LIVER",
    "LSPINE", "LUNG", "NECK", "ORBIT", "PANCREAS", "PELVIS", "PROSTATE", "SHOULDER", "SKULL", "SPINE", "THIGH",
    "TSPINE", "UTERUS", "WHOLEBODY", "WRIST",
})  # fmt: skip
_HEAD_WORDS: Final = re.compile(
    r"HEAD|BRAIN|SKULL|FACE|FACIAL|ORBIT|NECK|JAW|MAXILLA|MANDIBLE|SINUS|EYE|EAR(?![A-Z])|CRANI|CEREBR|WHOLEBODY|[头颅脑面颈眼耳鼻颌]"
)
_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "Modality": frozenset({"MR", "CT", "PT", "NM"}),
    "PhaseEncodingDirection": _AXES,
    "PhaseEncodingAxis": _AXES,
    "SliceEncodingDirection": _AXES,
    "InPlanePhaseEncodingDirectionDICOM": frozenset({"ROW", "COL"}),
    "MRAcquisitionType": frozenset({"1D", "2D", "3D"}),
    "PatientPosition": frozenset({"HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL"}),
    "PulseSequenceType": frozenset({"Spin Echo", "Gradient Echo", "Echo Planar", "Inversion Recovery"}),
    "BodyPart": _BODY_PARTS,
    "BodyPartExamined": _BODY_PARTS,
    "Manufacturer": frozenset({
        "Siemens", "Siemens Healthineers", "GE", "Philips", "Canon", "Toshiba", "Hitachi", "UIH", "Fujifilm", "Bruker",
        "Neusoft", "Mediso",
    }),
    "Units": frozenset({"rad", "arbitrary", "Hz", "T", "Bq/mL"}),
}  # fmt: skip
_TOKENS: Final[Mapping[str, frozenset[str]]] = {
    "ScanningSequence": frozenset({"SE", "IR", "GR", "EP", "RM"}),
    "SequenceVariant": frozenset({"SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE", "TOF"}),
    "ScanOptions": frozenset({"PER", "RG", "CG", "PPG", "FC", "PFF", "PFP", "SP", "FS", "CT"}),
    "ImageType": frozenset({
        "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "LOCALIZER", "M", "P", "R", "I", "ND", "NORM", "DIS2D",
        "DIS3D", "MOSAIC", "DIFFUSION", "ADC", "FA", "TRACEW", "PHASE", "MAGNITUDE", "REAL", "IMAGINARY", "MFSPLIT",
        "FMRI", "NONE", "SE", "FFE", "PROJECTION IMAGE", "MPR", "ASL", "PERFUSION",
    }),
}  # fmt: skip
"""Keys whose value is a list, or words put together by a backslash or an underscore; other words are left out."""


def clean_sidecar(data: bytes, *, token: Callable[[str], str | None]) -> tuple[bytes, Mapping[str, int]]:
    """Return a sidecar with nothing but what is listed, and how many of its keys were dropped and kept.

    Args:
        data: The JSON.
        token: What a patient's number becomes; None where it is empty.

    Raises:
        NiftiError: It is no JSON object, or too large.
    """
    found = _object(data)
    kept: dict[str, object] = {}
    for key, value in sorted(found.items()):
        passed = _passed(key, value)
        if passed is not None:
            kept[key] = passed
    number = found.get(_PATIENT)
    patient = token(str(number)) if isinstance(number, str | int) else None
    if patient is not None:
        kept["patient"] = patient
    counts = {"keys_kept": len(kept), "keys_dropped": len(found) - len(kept)}
    return json.dumps(kept, indent=1).encode() + b"\n", counts


def names_head(data: bytes) -> bool:
    """Tell whether a sidecar says of its image that it shows the head, the neck or all of a body.

    Raises:
        NiftiError: It is no JSON object, or too large.
    """
    found = _object(data)
    said = (found.get(key) for key in ("BodyPart", "BodyPartExamined"))
    return any(_HEAD_WORDS.search(re.sub(r"[\s_-]", "", str(one).upper())) is not None for one in said if one)


def _object(data: bytes) -> dict[str, object]:
    if len(data) > MAX_SIDECAR_BYTES:
        raise NiftiError("sidecar")
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise NiftiError("sidecar") from None
    if not isinstance(found, dict):
        raise NiftiError("sidecar")
    return found


def _passed(key: str, value: object) -> object:
    """Return what passes of a value, or None."""
    if key in _NUMBERS:
        return value if _is_number(value) else None
    if key in _LISTS:
        good = isinstance(value, list) and len(value) <= _LONGEST_LIST and all(_is_number(one) for one in value)
        return value if good else None
    if key in _TRUTHS:
        return value if isinstance(value, bool) else None
    if key in _WORDS:
        return value if isinstance(value, str) and value in _WORDS[key] else None
    if key in _TOKENS:
        return _listed(value, _TOKENS[key])
    return None


def _listed(value: object, words: frozenset[str]) -> object:
    if isinstance(value, str):
        kept = [one for one in re.split(r"[\\_]", value) if one in words]
        return "_".join(kept) or None
    if isinstance(value, list):
        return [one for one in value if isinstance(one, str) and one in words] or None
    return None


def _is_number(value: object) -> bool:
    """Tell whether a value is a number of a physical size; the digits of one can't hold more than a double does."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _MOST and math.isfinite(value)  # in this order: a whole number may be too large for a double
