"""Why a file was not cleaned, in words that name no value of it.

Why it exists: whoever works through the quarantine needs the cause; whoever reads the log must learn nothing else.

Rules:
    * Every reason is one of a fixed list. Free text never enters it.

What it does not do: keep the file; it stays where it was.
"""

from collections.abc import Mapping
from typing import Literal

from fedmed.errors import DataError

Reason = Literal[
    "burned-in", "crashed", "dicomdir", "encapsulated-document", "embedded-comment", "malformed", "no-pixels",
    "not-part-10", "overlay-in-pixels", "pixels-unassessed", "pixels-undecodable", "screen-capture",
    "secondary-capture", "sop-class", "stray-bytes", "too-large", "transfer-syntax", "truncated", "two-images",
    "ultrasound-regions", "ultrasound-without-regions", "unknown-stream", "unreadable", "unused-bits",
    "wrong-size",
]  # fmt: skip

REASONS: Mapping[str, str] = {
    "burned-in": "the file says of itself that text is burnt into its pixels",
    "crashed": "the process that read the file ended abruptly, twice",
    "dicomdir": "a DICOMDIR lists patients; it is rebuilt from the cleaned files, not cleaned",
    "encapsulated-document": "the file wraps a document such as a PDF",
    "embedded-comment": "the compressed pixels carry a comment or metadata of their own",
    "malformed": "the bytes are not a dataset that parses exactly",
    "no-pixels": "the class is an image, but no pixels are there",
    "not-part-10": "no DICOM file format: 128 bytes and `DICM` are missing",
    "overlay-in-pixels": "an overlay is stored in the unused bits of the pixels",
    "pixels-unassessed": "nobody has vouched for the pixels of this class; see trusted_pixels",
    "pixels-undecodable": "the pixels have to be masked, but cannot be decoded",
    "screen-capture": "the image looks like a capture of a screen",
    "secondary-capture": "secondary captures hold whatever was on a screen",
    "sop-class": "no SOP class, or none that the standard lists for storage of readable content",
    "stray-bytes": "the compressed pixels hold bytes that no image needs, or cannot be followed to their end",
    "too-large": "the file, or the image in it, is larger than one may be",
    "transfer-syntax": "the transfer syntax is missing or unknown",
    "truncated": "the file ends before its content does",
    "two-images": "more than one element holds pixels",
    "ultrasound-regions": "the ultrasound regions are no rectangles inside the image, or fill it",
    "ultrasound-without-regions": "nothing tells where the ultrasound image ends and the text begins",
    "unknown-stream": "the pixels are compressed in a way, such as video, whose comments are not looked for",
    "unreadable": "the file cannot be opened or read",
    "unused-bits": "bits of the pixels that the image does not use hold something",
    "wrong-size": "the compressed pixels are of another size than the file says",
}


class QuarantineError(DataError):
    """A file that is not cleaned, with the `reason` why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"expected a DICOM file that can be cleaned; {REASONS[reason]}; look at it by hand")
        self.reason: Reason = reason
