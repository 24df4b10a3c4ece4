"""One policy for a folder of mixed files: what a preset or a site's own file means for tables, DICOM and notes.

Why it exists: a privacy officer decides once ("dates move by a secret shift"), not once per kind of file.

Rules:
    * A name is one of the shipped presets; anything else is a YAML file with the same keys.
    * The date mode holds everywhere: `shift` moves dates by the same keyed days in all kinds of file; any other mode
      removes them from DICOM and masks them in notes, because those kinds know no coarser date.
    * A site's own file may add the sections `dicom`, `nifti`, `text` and `files`. A file that bears a shipped name may
      not: its name must go on meaning what it says.

What it does not do: decide about the columns of a table (see `deidentification_columns`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

import yaml

from fedmed.config import config_dir
from fedmed.deid.dicom import DicomOptions
from fedmed.deid.encodings import ENCODINGS, Encoding
from fedmed.deid.nifti.options import Faces, NiftiOptions, SingleSlices
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.preset_names import PRESETS
from fedmed.deid.presets import policy_from
from fedmed.deid.text import TextOptions
from fedmed.errors import ConfigError, UsageError
from fedmed.records import build, digest, require

SECTIONS = ("dicom", "nifti", "text", "files")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """What the site knows of its files: the encoding of tables and notes that are no UTF-8."""

    encoding: Encoding = "detect"

    def __post_init__(self) -> None:
        require(self.encoding in ENCODINGS, f"encoding must be one of {', '.join(ENCODINGS)}")

    @property
    def digest(self) -> str:
        """The SHA-256 of the options."""
        return digest(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a site has decided, by kind of file."""

    table: DeidPolicy
    dicom: DicomOptions
    nifti: NiftiOptions
    text: TextOptions
    files: FileOptions = field(default_factory=FileOptions)

    @property
    def profile(self) -> str:
        """The policy's name."""
        return self.table.profile


def load_choices(name: str) -> Choices:
    """Return the choices of a shipped policy, or of a policy file.

    Args:
        name: One of the presets, or the path of a YAML file.

    Raises:
        UsageError: There is neither a preset nor a file of this name.
        ConfigError: A key is unknown, a value out of range, or a shipped name stands for something looser.
    """
    path = config_dir() / "deid" / f"{name}.yaml" if name in PRESETS else Path(name)
    if not path.is_file():
        raise UsageError(f"expected a policy of {', '.join(PRESETS)}, or a YAML file; got {name!r}, which is neither")
    return choices_from(read_mapping(path, what="policy"))


def choices_from(mapping: Mapping[str, object]) -> Choices:
    """Return the choices that a mapping stands for.

    >>> choices_from({"profile": "our-own", "dates": "month"}).dicom.dates
    'remove'

    Raises:
        ConfigError: See `load_choices`.
    """
    table = policy_from({key: value for key, value in mapping.items() if key not in SECTIONS}, at="policy")
    own = [section for section in SECTIONS if mapping.get(section)]
    if own and table.profile in PRESETS:
        raise ConfigError(f"policy.{own[0]}: expected none under the name {table.profile}; give another profile name")
    shifted = table.dates == "shift"
    dicom = {"dates": "shift" if shifted else "remove", "max_shift_days": table.max_shift_days}
    text = {"dates": "shift" if shifted else "mask", "max_shift_days": table.max_shift_days}
    choices = Choices(
        table=table,
        dicom=build({**dicom, **_section(mapping, "dicom")}, DicomOptions, at="policy.dicom"),
        nifti=build(_section(mapping, "nifti"), NiftiOptions, at="policy.nifti"),
        text=build({**text, **_section(mapping, "text")}, TextOptions, at="policy.text"),
        files=build(_section(mapping, "files"), FileOptions, at="policy.files"),
    )
    if choices.dicom.dates == "keep" and not shifted:
        raise ConfigError("policy.dicom.dates: expected remove or shift beside coarser dates of tables, got keep")
    return choices


def read_mapping(path: Path, *, what: str) -> dict[str, object]:
    """Return the mapping that a YAML file holds.

    Raises:
        UsageError: There is no such file.
        ConfigError: It is not YAML, or no mapping; the message repeats nothing of it.
    """
    if not path.is_file():
        raise UsageError(f"expected a {what} file, found none at {path}")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{what} file {path.name}: expected at most 1 MiB, got more")
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise ConfigError(f"{what} file {path.name}: expected YAML in UTF-8, got something else") from None
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise ConfigError(f"{what} file {path.name}: expected keys with values, got something else")
    return loaded


def _section(mapping: Mapping[str, object], name: str) -> dict[str, object]:
    section = mapping.get(name) or {}
    if not isinstance(section, dict):
        raise ConfigError(f"policy.{name}: expected keys with values, got a {type(section).__name__}")
    return section


_FACES: Final[Mapping[Faces, str]] = {
    "unassessed": "quarantined with their sidecars: nobody vouches that no face can be rendered from them",
    "absent": "geometry and voxels kept; the site says that no image shows a face",
    "removed": "geometry and voxels kept; the site says that faces were removed before",
    "kept": "geometry and voxels kept; the site lets images pass from which faces can be rendered",
}
_SLICES: Final[Mapping[SingleSlices, str]] = {
    "quarantine": "; colours and single slices quarantined",
    "keep": "; colours quarantined; the site has looked at single slices",
}


def described(choices: Choices) -> dict[str, str]:
    """Return what the policy does in plain words, by subject, for reports and the preview."""
    table, dicom, text = choices.table, choices.dicom, choices.text
    dates = {
        "shift": f"moved by one secret number of days per patient, at most {table.max_shift_days}; intervals stay",
        "month": "months only in tables; removed from DICOM, masked in notes",
        "year": "years only in tables; removed from DICOM, masked in notes",
        "drop": "dropped from tables, removed from DICOM, masked in notes",
    }
    kept = [one.name.removeprefix("retain_") for one in fields(dicom) if one.name.startswith("retain_")
            and getattr(dicom, one.name)]  # fmt: skip
    k = f"at least {table.k} patients share every combination of quasi-identifiers" if table.k > 1 else "not asked for"
    return {
        "Dates": dates[table.dates],
        "Free text in tables": "dropped whole" if table.free_text == "drop" else "cleaned by the rules for notes",
        "Sensitive columns": "kept" if table.sensitive == "keep" else "dropped",
        "k-anonymity of tables": k,
        "DICOM": f"Basic Profile of PS3.15 Annex E, {dicom.edition}; kept beyond it: {', '.join(kept) or 'nothing'}",
        "Ultrasound": "masked outside its regions" if dicom.clean_pixel_data else "quarantined",
        "NIfTI": _FACES[choices.nifti.faces] + _SLICES[choices.nifti.single_slices],
        "Notes": f"rules for {' and '.join(text.languages)}; dates {'shifted' if text.dates == 'shift' else 'masked'}"
        + ("" if text.tagger is None else "; with a tagger"),
        "Encoding of text": "UTF-8"
        if choices.files.encoding == "utf-8"
        else "UTF-8, else "
        + ("GB18030 where it reads as Chinese" if choices.files.encoding == "detect" else choices.files.encoding),
    }
