"""Why a NIfTI image or a sidecar was not cleaned, in words that name no value of it.

Rules:
    * Every reason is one of a fixed list. Free text never enters it.

What it does not do: keep the file; it stays where it was.
"""

from collections.abc import Mapping
from typing import Literal

from fedmed.errors import DataError

NiftiReason = Literal[
    "nifti-colour", "nifti-faces", "nifti-head", "nifti-malformed", "nifti-one-slice", "nifti-pair", "nifti-truncated",
    "sidecar", "too-large",
]  # fmt: skip

REASONS: Mapping[str, str] = {
    "nifti-colour": "the voxels are colours; such images are often captures of a screen",
    "nifti-faces": "the policy doesn't say what this site vouches for: faces can be rendered from images of heads",
    "nifti-head": "the policy says that no image shows a face, but the sidecar names the head or the neck",
    "nifti-malformed": "the bytes are no NIfTI-1 or NIfTI-2 image in one file that parses exactly",
    "nifti-one-slice": "a single slice can be a radiograph or a capture of a screen, with text burnt in",
    "nifti-pair": "a pair of .hdr and .img, NIfTI or Analyze; convert it to a single .nii file",
    "nifti-truncated": "the file ends before its voxels do, or its compression is damaged",
    "sidecar": "the JSON beside the image is no object, is damaged, or is larger than a sidecar may be",
    "too-large": "the file is larger than one file may be",
}


class NiftiError(DataError):
    """A file that is not cleaned, with the `reason` why."""

    def __init__(self, reason: NiftiReason) -> None:
        super().__init__(f"expected a NIfTI image that can be cleaned; {REASONS[reason]}; look at it by hand")
        self.reason: NiftiReason = reason
