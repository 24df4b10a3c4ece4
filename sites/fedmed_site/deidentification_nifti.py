"""NIfTI images and their sidecars among the files of a folder: which they are, what they are called, what is done.

Why it exists: an image and the JSON beside it are two files that belong together by their names alone.

Rules:
    * JSON is a sidecar only beside an image of its name. It shares the image's fate where the policy vouches for none.
    * Both outputs share a name, keyed or not.

What it does not do: clean (see `fedmed.deid.nifti`), or read any file twice.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from fedmed.audit import Scalar
from fedmed.crypto.seal import Seal
from fedmed.deid.nifti.images import clean_image
from fedmed.deid.nifti.options import NiftiOptions
from fedmed.deid.nifti.quarantine import NiftiError
from fedmed.deid.nifti.sidecars import MAX_SIDECAR_BYTES, clean_sidecar, names_head
from fedmed.deid.outgoing import Written
from fedmed.deid.pseudonyms import Pseudonyms, normalise
from fedmed_site.manifest import ItemKind

PAIRED: Final[frozenset[ItemKind]] = frozenset({"nifti", "sidecar"})
"""Kinds whose outputs are named by their pair."""

_IMAGES: Final = (".nii.gz", ".nii")
_SIDECAR: Final = ".json"
_HALVES: Final = (".hdr", ".img", ".hdr.gz", ".img.gz")


def pair_of(name: str) -> tuple[str, str]:
    """Return the name that an image shares with its sidecar, and the suffix; nothing where it is called like neither.

    >>> pair_of("sub-01/scan.nii.gz"), pair_of("sub-01/scan.json"), pair_of("notes.txt")
    (('sub-01/scan', '.nii.gz'), ('sub-01/scan', '.json'), ('notes.txt', ''))
    """
    length = next((len(one) for one in (*_IMAGES, _SIDECAR) if name.lower().endswith(one)), 0)
    return name[: len(name) - length], name[len(name) - length :]


def kind_of(path: Path) -> Literal["nifti", "sidecar"] | None:
    """Return what a file is of the two, by its name and what lies beside it."""
    base, suffix = pair_of(path.name)
    if suffix.lower() in _IMAGES:
        return "nifti"
    if suffix and any(path.with_name(base + one).is_file() for one in _IMAGES):
        return "sidecar"
    return None


def decisive(kind: ItemKind, path: Path) -> tuple[Path, ...]:
    """Return what else decides about a file: of an image its sidecar, which may say that it shows the head."""
    beside = _beside(path)
    return (beside,) if kind == "nifti" and beside.is_file() else ()


def is_half(path: Path) -> bool:
    """Tell whether a file is called like a half of an image in two files."""
    return path.name.lower().endswith(_HALVES)


def image(
    path: Path, target: Path, *, options: NiftiOptions, seal: Seal | None
) -> tuple[Written, Mapping[str, Scalar]]:
    """Write a cleaned image to `target` and return what it is, with the facts of its record.

    Raises:
        NiftiError: It is not cleaned, or its sidecar cannot be read though the policy asks what it says.
    """
    beside = _beside(path)
    about_head = options.faces == "absent" and beside.is_file() and names_head(_read(beside))
    written, counts = clean_image(
        path,
        target,
        options=options,
        compress=path.name.lower().endswith(".gz"),
        about_head=about_head,
        seal=seal,
    )
    return written, {f"nifti.{name}": count for name, count in counts.items()} | {"faces": options.faces}


def sidecar(path: Path, *, options: NiftiOptions, pseudonyms: Pseudonyms) -> tuple[bytes, Mapping[str, Scalar]]:
    """Return a cleaned sidecar and the facts of its record.

    Raises:
        NiftiError: It is none, or the policy vouches for no image.
    """
    if options.faces == "unassessed":
        raise NiftiError("nifti-faces")
    data, counts = clean_sidecar(
        _read(path), token=lambda number: pseudonyms.token(number) if normalise(number) else None
    )
    return data, {f"sidecar.{name}": count for name, count in counts.items()}


def _beside(path: Path) -> Path:
    return path.with_name(pair_of(path.name)[0] + _SIDECAR)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_SIDECAR_BYTES + 1)
