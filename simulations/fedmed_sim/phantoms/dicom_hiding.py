"""The places where identifiers hide in a data set that looks clean.

Why it exists: each of these was seen to survive a shipped de-identification tool.

Rules:
    * A hiding place takes the scene and the data set, plants there, and returns its canaries.
    * Each canary stands in the file in plain bytes, or the name's drawn bytes are told to the scene.

What it does not do: make a file invalid; pydicom and a DICOM viewer read all of it.
"""

import io
from collections.abc import Callable

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from fedmed_sim.phantoms.draws import between, chance, some
from fedmed_sim.phantoms.pixels import bitmap
from fedmed_sim.phantoms.scene import Scene

Hiding = Callable[[Scene, Dataset], list[str]]


def hide_some(scene: Scene, data: Dataset, *, plain: bool) -> list[str]:
    """Plant in one to six hiding places and return the canaries.

    Args:
        scene: The patient's scene.
        data: The data set, with its file meta.
        plain: Only in places whose bytes do not depend on the byte order.
    """
    places = ANY_ORDER if plain else (*ANY_ORDER, *LITTLE_ENDIAN)
    chosen = some(scene.rng, places, between(scene.rng, 1, 6))
    return [canary for place in chosen for canary in place(scene, data)]


def private_tags(scene: Scene, data: Dataset) -> list[str]:
    """A private block with a text, bytes, and a private sequence that holds another block."""
    words = [scene.canary(f"private {what}") for what in ("text", "bytes", "sequence", "block in a sequence")]
    block = data.private_block(0x0009, "PHANTOM HIS 1.0", create=True)
    block.add_new(0x01, "LO", scene.label(words[0]))
    block.add_new(0x02, "OB", _even(f"<patient>{scene.record} {words[1]}</patient>".encode()))
    item = Dataset()
    item.PatientName = scene.name
    item.StudyDescription = words[2]
    item.private_block(0x0011, "PHANTOM RIS", create=True).add_new(0x10, "SH", words[3])
    block.add_new(0x03, "SQ", [item])
    return words


def known_private(scene: Scene, data: Dataset) -> list[str]:
    """A private block under the creator of a real vendor, of which a part is often kept on purpose."""
    word = scene.canary("private block of a vendor")
    data.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x08, "CS", word)
    return [word]


def orphan_private(scene: Scene, data: Dataset) -> list[str]:
    """A private element without a creator."""
    word = scene.canary("private element without creator")
    data.add_new(Tag(0x0013, 0x1010), "LO", word)
    return [word]


def sequence_as_unknown(scene: Scene, data: Dataset) -> list[str]:
    """A known sequence written as UN with a defined length (PS3.5, 6.2.2)."""
    word = scene.canary("sequence as UN")
    raw, tag = _sequence(scene, word), Tag(0x0040, 0x0275)
    data[tag] = RawDataElement(tag, "UN", len(raw), raw, 0, is_implicit_VR=False, is_little_endian=True)
    return [word]


def private_sequence_as_unknown(scene: Scene, data: Dataset) -> list[str]:
    """A private sequence written as UN with an undefined length."""
    word = scene.canary("private sequence as UN, undefined length")
    block = data.private_block(0x0019, "PHANTOM PACS", create=True)
    block.add_new(0x20, "UN", _sequence(scene, word))
    data[block.get_tag(0x20)].is_undefined_length = True
    return [word]


def code_meaning(scene: Scene, data: Dataset) -> list[str]:
    """A local code whose meaning names the patient, at the top and two sequences deep."""
    words = [scene.canary("CodeMeaning"), scene.canary("CodeMeaning, two deep")]
    outer, protocol = _code("X2", scene.label(words[0])), _code("X3", "Routine")
    outer.ContextIdentifier, outer.ContextGroupVersion, outer.MappingResource = "9999", "20200101", "99LOCAL"
    outer.ContextGroupExtensionFlag, outer.ContextGroupLocalVersion = "Y", "20200101"
    outer.ContextGroupExtensionCreatorUID = scene.uid()
    context = Dataset()
    context.ValueType, context.TextValue = "TEXT", "as usual"
    context.ConceptNameCodeSequence = [_code("X1", scene.label(words[1]))]
    protocol.ProtocolContextSequence = [context]
    data.ProcedureCodeSequence = [outer]
    data.PerformedProtocolCodeSequence = [protocol]
    return words


def nested_people(scene: Scene, data: Dataset) -> list[str]:
    """Earlier values of attributes: names, numbers and comments two and three sequences deep."""
    words = [scene.canary(f"nested {what}") for what in ("comments", "procedure", "institution")]
    change, before, request = Dataset(), Dataset(), Dataset()
    request.RequestedProcedureDescription, request.RequestingPhysician = scene.label(words[1]), scene.name
    request.ReferencedStudySequence = []
    before.PatientName, before.PatientID, before.PatientBirthDate = scene.name, scene.record, scene.birth
    before.PatientComments, before.RequestAttributesSequence = scene.sentence(words[0]), [request]
    change.ModifiedAttributesSequence = [before]
    change.AttributeModificationDateTime = f"{scene.birth}120000"
    change.ModifyingSystem, change.SourceOfPreviousValues = scene.station, scene.label(words[2])
    change.ReasonForTheAttributeModification = "COERCE"
    data.OriginalAttributesSequence = [change]
    return words


def meta_and_preamble(scene: Scene, data: Dataset) -> list[str]:
    """Application entity titles and private information in the file meta, and writing in the preamble."""
    words = [scene.canary(what) for what in ("source AE", "sending AE", "receiving AE", "private meta", "preamble")]
    meta = data.file_meta
    meta.SourceApplicationEntityTitle = words[0]
    meta.SendingApplicationEntityTitle = words[1]
    meta.ReceivingApplicationEntityTitle = words[2]
    meta.PrivateInformationCreatorUID = UID(scene.uid())
    meta.PrivateInformation = _even(f"{scene.record} {words[3]}".encode())
    data.preamble = f"II*\0{scene.record} {words[4]}".encode().ljust(128, b"\0")
    return words


def trailing_padding(scene: Scene, data: Dataset) -> list[str]:
    """Writing in the data set trailing padding."""
    word = scene.canary("trailing padding")
    data.add_new(Tag(0xFFFC, 0xFFFC), "OB", _even(f"{scene.record} {word}".encode()) + b"\0" * 64)
    return [word]


def unlisted_text(scene: Scene, data: Dataset) -> list[str]:
    """Free text in attributes that seem technical."""
    slots = ("FilterType", "DerivationDescription", "ContrastBolusAgent", "AcquisitionDeviceProcessingDescription")
    words = [scene.canary(f"text in {slot}") for slot in slots]
    data.FilterType, data.AcquisitionDeviceProcessingDescription = words[0][:16], scene.label(words[3])
    data.DerivationDescription = scene.sentence(words[1])
    data.ContrastBolusAgent = scene.label(words[2])
    return words


def overlay(scene: Scene, data: Dataset) -> list[str]:
    """An overlay plane with the name drawn in it, a label and a description."""
    words = [scene.canary("overlay label"), scene.canary("overlay description")]
    group = 0x6000 + 2 * max(0, between(scene.rng, -4, 7))
    stencil = bitmap(scene.patient.name.roman.replace("^", " "), rows=32, columns=128, left=1, top=4, height=20)
    bits = np.packbits(stencil, bitorder="little").tobytes()
    data.add_new(Tag(group, 0x0010), "US", 32)
    data.add_new(Tag(group, 0x0011), "US", 128)
    data.add_new(Tag(group, 0x0022), "LO", scene.label(words[1]))
    data.add_new(Tag(group, 0x0040), "CS", "G")
    data.add_new(Tag(group, 0x0050), "SS", [1, 1])
    data.add_new(Tag(group, 0x0100), "US", 1)
    data.add_new(Tag(group, 0x0102), "US", 0)
    data.add_new(Tag(group, 0x1500), "LO", words[0])
    data.add_new(Tag(group, 0x3000), "OW", bits)
    scene.hide(bits[16 * 12 : 16 * 18], "overlay data")
    return words


def curve(scene: Scene, data: Dataset) -> list[str]:
    """A curve of the retired group 50xx whose description and data name the patient."""
    words = [scene.canary("curve description"), scene.canary("curve data")]
    group = 0x5000 + 2 * between(scene.rng, 0, 7)
    raw = _even(f"{scene.record} {words[1]} ".encode())
    raw += b"\0" * (-len(raw) % 4)
    data.add_new(Tag(group, 0x0005), "US", 1)
    data.add_new(Tag(group, 0x0010), "US", len(raw) // 2)
    data.add_new(Tag(group, 0x0020), "CS", "ECG")
    data.add_new(Tag(group, 0x0022), "LO", words[0])
    data.add_new(Tag(group, 0x0103), "US", 0)
    data.add_new(Tag(group, 0x3000), "OW", raw)
    return words


def icon(scene: Scene, data: Dataset) -> list[str]:
    """An icon image with the name drawn in it."""
    stencil = bitmap(scene.patient.name.roman.replace("^", " "), rows=32, columns=64, left=1, top=8, height=12)
    pixels = np.where(stencil, 255, between(scene.rng, 1, 90)).astype(np.uint8)
    item = Dataset()
    item.SamplesPerPixel, item.PhotometricInterpretation, item.Rows, item.Columns = 1, "MONOCHROME2", 32, 64
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 8, 8, 7, 0
    item.PixelData = pixels.tobytes()
    item["PixelData"].VR = "OW"
    data.IconImageSequence = [item]
    scene.hide(pixels[14].tobytes(), "icon image")
    return []


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "99LOCAL", meaning
    return code


def _sequence(scene: Scene, word: str) -> bytes:
    """Return one item, of defined or undefined length, in implicit little endian: what UN holds."""
    item = Dataset()
    item.ScheduledProcedureStepDescription = word
    item.RequestedProcedureID = scene.record[:16]
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, True
    write_dataset(file, item)
    body = file.getvalue()
    out = io.BytesIO()
    if chance(scene.rng, 0.5):
        out.write(b"\xfe\xff\x00\xe0" + len(body).to_bytes(4, "little") + body)
    else:
        out.write(b"\xfe\xff\x00\xe0" + b"\xff" * 4 + body + b"\xfe\xff\x0d\xe0" + b"\0" * 4)
    return out.getvalue()


def _even(raw: bytes) -> bytes:
    return raw + b"\0" * (len(raw) % 2)


ANY_ORDER: tuple[Hiding, ...] = (
    private_tags,
    known_private,
    orphan_private,
    code_meaning,
    nested_people,
    meta_and_preamble,
    trailing_padding,
    unlisted_text,
)
LITTLE_ENDIAN: tuple[Hiding, ...] = (sequence_as_unknown, private_sequence_as_unknown, overlay, curve, icon)
