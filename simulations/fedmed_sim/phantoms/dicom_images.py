"""Phantom images: CT, MR, US, secondary capture and digital X-ray, in several transfer syntaxes.

Why it exists: pixels must come out as they went in, except where a name is drawn in them.

Rules:
    * A picture's size is a choice of the caller; 64 x 64 makes small files, 512 x 512 real ones.
    * CT, MR and DX carry no writing. US does outside of its regions; US without regions and SC anywhere,
      and SC says `BurnedInAnnotation` NO as often as YES.

What it does not do: enhanced multi-frame objects with functional groups.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from fedmed_sim.phantoms.dicom_frame import Phantom, Series, finish, new_dataset
from fedmed_sim.phantoms.dicom_hiding import hide_some
from fedmed_sim.phantoms.draws import between, chance, pick
from fedmed_sim.phantoms.pixels import Box, Pixels, anatomy, jpeg, write_text
from fedmed_sim.phantoms.scene import Scene, Visit

IMAGE_CLASSES: dict[str, tuple[str, UID]] = {
    "CT": ("CT", CTImageStorage),
    "MR": ("MR", MRImageStorage),
    "US": ("US", UltrasoundImageStorage),
    "US-PLAIN": ("US", UltrasoundImageStorage),
    "US-MULTI": ("US", UltrasoundMultiFrameImageStorage),
    "SC": ("OT", SecondaryCaptureImageStorage),
    "DX": ("DX", DigitalXRayImageStorageForPresentation),
}
_PLAIN = (ExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
_SYNTAXES_16 = (*_PLAIN, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, ExplicitVRBigEndian)
_SYNTAXES_8 = (*_PLAIN, ExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an image stands: its study, its series, and the file's path."""

    visit: Visit
    series: Series
    instance: int
    path: str


def draw_image(scene: Scene, place: Place, kind: str, *, side: int) -> Phantom:
    """Draw one image.

    Args:
        scene: The patient's scene.
        place: Study, series and path.
        kind: A key of `IMAGE_CLASSES`.
        side: Rows and columns of the picture, at least 64.
    """
    data = new_dataset(scene, place.visit, place.series, instance=place.instance)
    _image_dates(data, scene, place.visit)
    if kind in {"CT", "MR", "DX"}:
        return _radiograph(scene, place, kind, data, side)
    return _screen(scene, place, kind, data, side)


def _image_dates(data: Dataset, scene: Scene, visit: Visit) -> None:
    data.AcquisitionDate = data.ContentDate = scene.day(visit.day)
    data.AcquisitionTime = data.ContentTime = visit.clock
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    if chance(scene.rng, 0.4):
        data.ImageComments = scene.sentence(scene.canary("ImageComments"))
        data.AcquisitionDateTime = f"{visit.day:%Y%m%d}{visit.clock}.000000"


def _radiograph(scene: Scene, place: Place, kind: str, data: Dataset, side: int) -> Phantom:
    """CT, MR or DX: 16 bits, no writing."""
    rng = scene.rng
    picture = anatomy(rng, side, side, peak=2000)
    if kind == "CT":
        _geometry(data, scene, place)
        data.RescaleIntercept, data.RescaleSlope, data.KVP = -1024, 1, 120
        data.AcquisitionNumber = 1
    elif kind == "MR":
        _geometry(data, scene, place)
        data.ScanningSequence, data.SequenceVariant, data.ScanOptions = "SE", "NONE", None
        data.MRAcquisitionType, data.EchoTime, data.EchoTrainLength, data.RepetitionTime = "2D", 12, 1, 500
    else:
        _projection(data)
    syntax = pick(rng, _SYNTAXES_16)
    hidden = hide_some(scene, data, plain=syntax == ExplicitVRBigEndian)
    _store(data, picture, syntax)
    return finish(scene, data, name=place.path, kind=kind, syntax=syntax, hidden=hidden)


def _geometry(data: Dataset, scene: Scene, place: Place) -> None:
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = place.visit.frame, None
    data.PatientPosition = "HFS"
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [-120.5, -118.25, float(place.instance) * 2.5]
    data.PixelSpacing, data.SliceThickness = [0.75, 0.75], 2.5
    data.SliceLocation = place.instance * 2.5
    if chance(scene.rng, 0.3):
        data.SynchronizationFrameOfReferenceUID = scene.uid()


def _projection(data: Dataset) -> None:
    data.ImagerPixelSpacing, data.PresentationIntentType = [0.2, 0.2], "FOR PRESENTATION"
    data.PixelIntensityRelationship, data.PixelIntensityRelationshipSign = "LOG", -1
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = 0, 1, "US"
    data.PresentationLUTShape, data.LossyImageCompression, data.BurnedInAnnotation = "IDENTITY", "00", "NO"
    data.ImageType = ["ORIGINAL", "PRIMARY", ""]
    data.PositionerType, data.DetectorType, data.ImageLaterality = "NONE", "DIRECT", "U"
    data.PatientOrientation = ["L", "F"]
    data.AcquisitionContextSequence = []
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "51185008", "SCT", "Chest"
    data.AnatomicRegionSequence = [region]
    data.WindowCenter, data.WindowWidth = 1000, 2000


def _screen(scene: Scene, place: Place, kind: str, data: Dataset, side: int) -> Phantom:
    """US or SC: 8 bits, grey or colour, with the patient's name drawn as a console does."""
    rng = scene.rng
    frames = between(rng, 2, 4) if kind == "US-MULTI" else 1
    band = max(20, side // 6)
    grey = [anatomy(rng, side, side, peak=180).astype(np.uint8) for _ in range(frames)]
    for frame in grey:
        frame[:band] = 0
    text = f"{scene.patient.name.roman.replace('^', ' ')} {scene.record}"
    written = [write_text(frame, text, left=2, top=2, height=max(9, band // 2)) for frame in grey]
    region = Box(left=0, top=band, right=side, bottom=side)
    regions = () if kind in {"US-PLAIN", "SC"} else (region,)
    pixels = np.stack([frame.astype(np.uint8) for frame, _ in written])
    if chance(rng, 0.5):
        pixels = np.stack([pixels] * 3, axis=-1)
    if kind == "SC":
        data.ConversionType, data.ImageType = "WSD", ["DERIVED", "SECONDARY"]
        data.PatientOrientation = None
        data.BurnedInAnnotation = pick(rng, ("YES", "NO"))
    else:
        _ultrasound(data, regions, frames if kind == "US-MULTI" else 0)
    syntax = pick(rng, _SYNTAXES_8)
    hidden = hide_some(scene, data, plain=False)
    if not syntax.is_compressed or syntax == DeflatedExplicitVRLittleEndian:
        scene.hide(_telling_bytes(pixels, written[0][1]), "name in the pixels")
    _store(data, pixels if kind == "US-MULTI" else pixels[0], syntax)
    return finish(
        scene,
        data,
        name=place.path,
        kind=kind,
        syntax=syntax,
        hidden=hidden,
        text_boxes=(written[0][1],),
        regions=regions,
    )


def _ultrasound(data: Dataset, regions: tuple[Box, ...], frames: int) -> None:
    data.ImageType = ["ORIGINAL", "PRIMARY"]
    data.PatientOrientation, data.LossyImageCompression = None, "00"
    if frames:
        data.FrameTime, data.FrameIncrementPointer = 33.3, 0x00181063
    items = []
    for box in regions:
        item = Dataset()
        item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
        item.RegionLocationMinX0, item.RegionLocationMinY0 = box.left, box.top
        item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box.right - 1, box.bottom - 1
        item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
        item.PhysicalDeltaX = item.PhysicalDeltaY = 0.02
        items.append(item)
    if items:
        data.SequenceOfUltrasoundRegions = items


def _telling_bytes(pixels: npt.NDArray[np.uint8], box: Box) -> bytes:
    """Return the bytes of a run of pixels through the middle of the writing."""
    row = pixels[0][(box.top + box.bottom) // 2]
    return bytes(row[box.left : min(box.left + 40, box.right)].tobytes())


def _store(data: Dataset, pixels: Pixels, syntax: UID) -> None:
    """Put pixels of shape (rows, columns), (rows, columns, 3), or with frames before those, into the data set."""
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3
    shape = pixels.shape[:-1] if colour else pixels.shape
    if len(shape) == 3:
        data.NumberOfFrames = shape[0]
    data.Rows, data.Columns = shape[-2:]
    bits = pixels.dtype.itemsize * 8
    data.SamplesPerPixel, data.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits, bits - 1, 0
    if bits == 16:
        data.BitsStored, data.HighBit = 12, 11
    if syntax == JPEGBaseline8Bit:
        _store_jpeg(data, pixels.reshape((-1, *shape[-2:], *((3,) if colour else ()))))
        return
    raw = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    data.PixelData = raw + b"\0" * (len(raw) % 2)
    data["PixelData"].VR = "OW" if bits == 16 or syntax == ImplicitVRLittleEndian else "OB"
    if syntax == RLELossless:
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)


def _store_jpeg(data: Dataset, frames: Pixels) -> None:
    data.PixelData = encapsulate([jpeg(frame.astype(np.uint8)) for frame in frames])
    data["PixelData"].is_undefined_length = True
    data["PixelData"].VR = "OB"
    data.LossyImageCompression, data.LossyImageCompressionMethod = "01", "ISO_10918_1"
    data.LossyImageCompressionRatio = 10
    if data.SamplesPerPixel == 3:
        data.PhotometricInterpretation = "YBR_FULL_422"
