"""DICOM phantoms: patients x studies x series, with every identifier known and all references consistent.

Why it exists: the de-identification of images is measured on whole patients, because
its UID map and its date shift must agree over files.

Rules:
    * All files of a study share its UID, day and frame of reference; documents point at images of it.
    * Files come study by study, images before the documents that point at them.
    * Sequences, private tags, character sets and transfer syntaxes differ from file to file.

What it does not do: write to disk; see `corpus`.
"""

from collections.abc import Iterator, Sequence

from numpy.random import Generator

from fedmed.errors import UsageError
from fedmed_sim.phantoms.dicom_documents import DOCUMENT_CLASSES, Target, draw_document
from fedmed_sim.phantoms.dicom_frame import Phantom, Series
from fedmed_sim.phantoms.dicom_images import IMAGE_CLASSES, Place, draw_image
from fedmed_sim.phantoms.draws import chance, some
from fedmed_sim.phantoms.names import Language
from fedmed_sim.phantoms.people import Person, draw_person
from fedmed_sim.phantoms.scene import Scene, Visit

KINDS = (*IMAGE_CLASSES, *DOCUMENT_CLASSES)


def draw_patient_files(
    rng: Generator,
    patient: Person,
    *,
    key: str,
    studies: int = 1,
    kinds: Sequence[str] = KINDS,
    images: int = 2,
    side: int = 64,
) -> Iterator[Phantom]:
    """Yield the files of one patient.

    Args:
        rng: The generator.
        patient: The patient.
        key: First part of the files' paths; nothing that identifies.
        studies: Number of studies.
        kinds: Kinds of files in each study, out of `KINDS`; documents need at least one kind of image.
        images: Images in each series of CT and MR; other series have one.
        side: Rows and columns of the images.

    Raises:
        UsageError: An unknown kind, documents without images, or a picture below 64 pixels.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not any(kind in IMAGE_CLASSES for kind in kinds):
        raise UsageError(f"DICOM phantoms: expected kinds out of {', '.join(KINDS)}, one an image, got {list(kinds)}")
    if side < 64:
        raise UsageError(f"DICOM phantoms: expected at least 64 pixels a side, got {side}")
    scene = Scene(rng, patient)
    for number in range(1, studies + 1):
        yield from _study(scene, scene.visit(), f"{key}/s{number:02d}", kinds=kinds, images=images, side=side)


def draw_files(
    rng: Generator, *, kinds: Sequence[str] = KINDS, images: int = 2, side: int = 64
) -> Iterator[tuple[Person, Phantom]]:
    """Yield files of one invented patient after another without end, each study with some of the kinds."""
    pictures = [kind for kind in kinds if kind in IMAGE_CLASSES]
    serial = 0
    while True:
        serial += 1
        language: Language = "zh" if chance(rng, 0.5) else "en"
        patient = draw_person(rng, language, adult=False)
        chosen = some(rng, kinds, 5)
        if not set(chosen) & set(pictures):
            chosen = [*some(rng, pictures, 1), *chosen]
        files = draw_patient_files(
            rng,
            patient,
            key=f"p{serial:05d}",
            studies=2 if chance(rng, 0.3) else 1,
            kinds=chosen,
            images=images,
            side=side,
        )
        for phantom in files:
            yield patient, phantom


def _study(
    scene: Scene, visit: Visit, folder: str, *, kinds: Sequence[str], images: int, side: int
) -> Iterator[Phantom]:
    targets: list[Target] = []
    for number, kind in enumerate((kind for kind in kinds if kind in IMAGE_CLASSES), start=1):
        modality, sop_class = IMAGE_CLASSES[kind]
        series = Series(uid=scene.uid(visit.day), number=number, modality=modality, sop_class=sop_class)
        made = []
        for instance in range(1, (images if kind in {"CT", "MR"} else 1) + 1):
            place = Place(visit=visit, series=series, instance=instance, path=f"{folder}/{kind}-{instance:04d}.dcm")
            phantom = draw_image(scene, place, kind, side=side)
            made.append(Target(series_uid=series.uid, sop_class=sop_class, sop_uid=phantom.sop_uid))
            yield phantom
        if kind == "CT" or not targets:
            targets = made
    for number, kind in enumerate((kind for kind in kinds if kind in DOCUMENT_CLASSES), start=len(kinds) + 1):
        modality, sop_class = DOCUMENT_CLASSES[kind]
        series = Series(uid=scene.uid(visit.day), number=number, modality=modality, sop_class=sop_class)
        place = Place(visit=visit, series=series, instance=1, path=f"{folder}/{kind}-0001.dcm")
        yield draw_document(scene, place, kind, targets)
