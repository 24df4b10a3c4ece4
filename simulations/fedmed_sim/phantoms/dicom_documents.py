"""Phantom objects that are not images: structured report, presentation state, RT structure set, PDF.

Why it exists: these point at images by UID and carry free text in trees, so that a
one-level pass leaves both.

Rules:
    * Each points at images of the same study, by study, series, class and instance UID.
    * Text stands at several depths; each piece has its own canary.

What it does not do: describe findings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
)

from fedmed_sim.phantoms.dicom_frame import Phantom, finish, new_dataset
from fedmed_sim.phantoms.dicom_hiding import hide_some
from fedmed_sim.phantoms.dicom_images import Place
from fedmed_sim.phantoms.draws import pick
from fedmed_sim.phantoms.scene import Scene

DOCUMENT_CLASSES: dict[str, tuple[str, UID]] = {
    "SR": ("SR", ComprehensiveSRStorage),
    "PR": ("PR", GrayscaleSoftcopyPresentationStateStorage),
    "RTSTRUCT": ("RTSTRUCT", RTStructureSetStorage),
    "PDF": ("DOC", EncapsulatedPDFStorage),
}
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An image that a document points at."""

    series_uid: str
    sop_class: UID
    sop_uid: str


def draw_document(scene: Scene, place: Place, kind: str, targets: Sequence[Target]) -> Phantom:
    """Draw one document.

    Args:
        scene: The patient's scene.
        place: Study, series and path.
        kind: A key of `DOCUMENT_CLASSES`.
        targets: Images of one series to point at, at least one.
    """
    data = new_dataset(scene, place.visit, place.series, instance=place.instance)
    build = {"SR": _report, "PR": _presentation, "RTSTRUCT": _structures, "PDF": _pdf}[kind]
    hidden = build(scene, data, place, targets)
    hidden += hide_some(scene, data, plain=True)
    pointed = () if kind == "PDF" else tuple(target.sop_uid for target in targets)
    syntax = pick(scene.rng, (ExplicitVRLittleEndian, ImplicitVRLittleEndian))
    return finish(scene, data, name=place.path, kind=kind, syntax=syntax, hidden=hidden, references=pointed)


def _report(scene: Scene, data: Dataset, place: Place, targets: Sequence[Target]) -> list[str]:
    """A comprehensive SR: names, dates and text at three depths, and an image reference."""
    words = [scene.canary(f"SR {what}") for what in ("text", "nested text", "code meaning", "container title")]
    data.ContentDate, data.ContentTime = scene.day(place.visit.day), place.visit.clock
    data.CompletionFlag, data.VerificationFlag = "COMPLETE", "VERIFIED"
    data.ReferencedPerformedProcedureStepSequence, data.PerformedProcedureCodeSequence = [], []
    observer = Dataset()
    observer.VerifyingOrganization = scene.hospital[:64]
    observer.VerificationDateTime = f"{place.visit.day:%Y%m%d}{place.visit.clock}"
    observer.VerifyingObserverName = scene.person(place.visit.operator)
    observer.VerifyingObserverIdentificationCodeSequence = []
    data.VerifyingObserverSequence = [observer]
    evidence = Dataset()
    evidence.StudyInstanceUID = place.visit.uid
    evidence.ReferencedSeriesSequence = [_series_reference(targets)]
    data.CurrentRequestedProcedureEvidenceSequence = [evidence]

    deepest = [
        _item("CONTAINS", "TEXT", "Comment", TextValue=scene.sentence(words[1])),
        _item("CONTAINS", "DATE", "Date of birth", Date=scene.birth),
        _item("CONTAINS", "UIDREF", "Study", UID=place.visit.uid),
        _item("CONTAINS", "CODE", "Observer", ConceptCodeSequence=[_code("P1", scene.label(words[2]), "99LOCAL")]),
        _item("CONTAINS", "IMAGE", "Source", ReferencedSOPSequence=[_instance(targets[0])]),
    ]
    findings = _item("CONTAINS", "CONTAINER", "Findings", ContinuityOfContent="SEPARATE", ContentSequence=deepest)
    data.ValueType, data.ContinuityOfContent = "CONTAINER", "SEPARATE"
    data.ConceptNameCodeSequence = [_code("18748-4", scene.label(words[3]), "LN")]
    data.ContentSequence = [
        _item("HAS OBS CONTEXT", "PNAME", "Person Observer", PersonName=scene.person(place.visit.operator)),
        _item("HAS OBS CONTEXT", "PNAME", "Subject Name", PersonName=scene.name),
        _item("CONTAINS", "TEXT", "History", TextValue=scene.sentence(words[0])),
        _item(
            "CONTAINS", "DATETIME", "Time", DateTime=scene.tell("DATE", f"{place.visit.day:%Y%m%d}0915", "SR datetime")
        ),
        findings,
    ]
    return words


def _presentation(scene: Scene, data: Dataset, place: Place, targets: Sequence[Target]) -> list[str]:
    """A grayscale presentation state with graphic annotations."""
    words = [scene.canary(f"PR {what}") for what in ("annotation", "layer", "description")]
    data.PresentationCreationDate, data.PresentationCreationTime = scene.day(place.visit.day), place.visit.clock
    data.ContentLabel, data.ContentDescription = "ANNOTATED", scene.label(words[2])
    data.ContentCreatorName = scene.person(place.visit.operator)
    data.ReferencedSeriesSequence = [_series_reference(targets, images=True)]
    text = Dataset()
    text.UnformattedTextValue = scene.sentence(words[0])
    text.AnchorPointAnnotationUnits, text.AnchorPoint, text.AnchorPointVisibility = "PIXEL", [10.0, 10.0], "N"
    drawing = Dataset()
    drawing.GraphicAnnotationUnits, drawing.GraphicDimensions, drawing.NumberOfGraphicPoints = "PIXEL", 2, 2
    drawing.GraphicData, drawing.GraphicType, drawing.GraphicFilled = [1.0, 1.0, 20.0, 20.0], "POLYLINE", "N"
    annotation = Dataset()
    annotation.ReferencedImageSequence = [_instance(target) for target in targets]
    annotation.GraphicLayer = "NOTES"
    annotation.TextObjectSequence, annotation.GraphicObjectSequence = [text], [drawing]
    data.GraphicAnnotationSequence = [annotation]
    layer = Dataset()
    layer.GraphicLayer, layer.GraphicLayerOrder, layer.GraphicLayerDescription = "NOTES", 1, scene.label(words[1])
    data.GraphicLayerSequence = [layer]
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [64, 64]
    area.PresentationSizeMode, area.PresentationPixelAspectRatio = "SCALE TO FIT", [1, 1]
    data.DisplayedAreaSelectionSequence = [area]
    data.PresentationLUTShape = "IDENTITY"
    return words


def _structures(scene: Scene, data: Dataset, place: Place, targets: Sequence[Target]) -> list[str]:
    """An RT structure set with one contour per image."""
    words = [scene.canary(f"RTSTRUCT {what}") for what in ("description", "ROI", "label")]
    data.StructureSetLabel, data.StructureSetDescription = words[2], scene.sentence(words[0])
    data.StructureSetDate, data.StructureSetTime = scene.day(place.visit.day), place.visit.clock
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = place.visit.frame, None
    series = Dataset()
    series.SeriesInstanceUID = targets[0].series_uid
    series.ContourImageSequence = [_instance(target) for target in targets]
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_CLASS, place.visit.uid
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = place.visit.frame, [study]
    data.ReferencedFrameOfReferenceSequence = [frame]
    roi = Dataset()
    roi.ROINumber, roi.ReferencedFrameOfReferenceUID = 1, place.visit.frame
    roi.ROIName, roi.ROIDescription = "LUNG", scene.sentence(words[1])
    roi.ROIGenerationAlgorithm = "MANUAL"
    data.StructureSetROISequence = [roi]
    contours = []
    for number, target in enumerate(targets):
        contour = Dataset()
        contour.ContourImageSequence = [_instance(target)]
        contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 3
        contour.ContourData = [0.0, 0.0, number * 2.5, 10.0, 0.0, number * 2.5, 10.0, 10.0, number * 2.5]
        contours.append(contour)
    group = Dataset()
    group.ReferencedROINumber, group.ContourSequence = 1, contours
    data.ROIContourSequence = [group]
    observation = Dataset()
    observation.ObservationNumber, observation.ReferencedROINumber = 1, 1
    observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", scene.person(place.visit.operator)
    data.RTROIObservationsSequence = [observation]
    data.ApprovalStatus, data.ReviewDate = "APPROVED", scene.day(place.visit.day)
    data.ReviewTime, data.ReviewerName = place.visit.clock, scene.person(place.visit.referrer)
    return words


def _pdf(scene: Scene, data: Dataset, place: Place, targets: Sequence[Target]) -> list[str]:  # noqa: ARG001  one shape
    """An encapsulated PDF whose page and title name the patient."""
    words = [scene.canary("PDF page"), scene.canary("PDF title")]
    name = scene.patient.name.roman.replace("^", " ")
    document = pdf(f"{name} {scene.record} {words[0]}")
    data.InstanceNumber, data.ContentDate, data.ContentTime = place.instance, None, None
    data.AcquisitionDateTime = f"{place.visit.day:%Y%m%d}{place.visit.clock}"
    data.BurnedInAnnotation, data.ConversionType = pick(scene.rng, ("YES", "NO")), "WSD"
    data.DocumentTitle, data.MIMETypeOfEncapsulatedDocument = scene.sentence(words[1]), "application/pdf"
    data.ConceptNameCodeSequence = []
    data.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    data.EncapsulatedDocumentLength = len(document)
    return words


def pdf(text: str) -> bytes:
    """Return a PDF 1.4 of one page with a line of ASCII text, uncompressed."""
    drawn = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    stream = f"BT /F1 12 Tf 40 700 Td ({drawn}) Tj ET"
    resources = "/Resources << /Font << /F1 5 0 R >> >>"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R {resources} >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    out, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    tail = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return (out + head + tail).encode("ascii")


def _item(relationship: str, value_type: str, concept: str, **values: object) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, value_type
    item.ConceptNameCodeSequence = [_code("121071", concept, "DCM")]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, meaning: str, scheme: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _instance(target: Target) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = target.sop_class, target.sop_uid
    return item


def _series_reference(targets: Sequence[Target], *, images: bool = False) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = targets[0].series_uid
    items = [_instance(target) for target in targets]
    if images:
        series.ReferencedImageSequence = items
    else:
        series.ReferencedSOPSequence = items
    return series
