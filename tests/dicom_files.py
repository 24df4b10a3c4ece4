"""DICOM files that tests write themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_dicom(path: Path, values: np.ndarray, **changes: Any) -> Path:
    """Write a DICOM file of one frame, 16 bits unsigned unless `changes` say otherwise."""
    dataset = pydicom.Dataset()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=["x"])
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality = "CT"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    frames = changes.pop("frames", None)
    dataset.Rows, dataset.Columns = values.shape[-2:]
    if frames:
        dataset.NumberOfFrames = frames
    dataset.PixelData = np.ascontiguousarray(values).tobytes()
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def group_of(**macros: dict[str, Any]) -> pydicom.Dataset:
    """Return a functional group of an enhanced file: each macro's sequence with its one item."""
    group = pydicom.Dataset()
    for sequence, values in macros.items():
        item = pydicom.Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        setattr(group, sequence, [item])
    return group
