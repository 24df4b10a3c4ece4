"""De-identification of DICOM files: PS3.15 Annex E over every dataset, item and file meta."""

from fedmed.deid.dicom.batch import FolderReport, ItemOutcome, clean_folder, item_path, locate
from fedmed.deid.dicom.files import DicomReport, Quarantined, clean_file
from fedmed.deid.dicom.options import DicomOptions, PrivateTag
from fedmed.deid.dicom.quarantine import REASONS, Reason

__all__ = [
    "REASONS",
    "DicomOptions",
    "DicomReport",
    "FolderReport",
    "ItemOutcome",
    "PrivateTag",
    "Quarantined",
    "Reason",
    "clean_file",
    "clean_folder",
    "item_path",
    "locate",
]
