"""Row N1 of the requirements: nothing but voxels and geometry of a NIfTI image comes out, and those as they were."""

import gzip
import itertools
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fedmed.crypto.seal import DataKey, Seal, unseal
from fedmed.deid.nifti.images import clean_image
from fedmed.deid.nifti.options import NiftiOptions
from fedmed.deid.nifti.quarantine import NiftiError
from fedmed_sim.phantoms.nifti import NiftiForm, NiftiPhantom, draw_nifti
from fedmed_sim.phantoms.people import draw_person

ABSENT = NiftiOptions(faces="absent")
FORMS = [
    NiftiForm(version=version, order=order, compressed=compressed, look=look)  # type: ignore[arg-type]  of literals
    for version, order, compressed, look in itertools.product((1, 2), "<>", (True, False), ("volume", "series"))
]


def phantom(form: NiftiForm, seed: int = 3) -> NiftiPhantom:
    """Return an image of an invented person."""
    rng = np.random.default_rng(seed)
    return draw_nifti(rng, draw_person(rng, "zh" if seed % 2 else "en"), name="scan", form=form)


def cleaned(payload: bytes, folder: Path, options: NiftiOptions = ABSENT, *, compress: bool = False) -> bytes:
    """Return what becomes of an image, as it lies on the disk; on an error nothing lies there."""
    source, target = folder / "source", folder / "target"
    source.write_bytes(payload)
    target.unlink(missing_ok=True)
    try:
        written, _ = clean_image(source, target, options=options, compress=compress, about_head=False, seal=None)
    except NiftiError:
        assert {path.name for path in folder.iterdir()} == {"source"}
        raise
    data = target.read_bytes()
    assert (written.path, written.size_bytes) == (target, len(data))
    return data


def plain(form: NiftiForm, **changes: object) -> bytes:
    """Return an uncompressed image."""
    return phantom(replace(form, compressed=False, **changes)).payload  # type: ignore[arg-type]  fields of the form


def geometry(data: bytes) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the affine of the sform and of the qform, read by the offsets of the standard."""
    order = "<" if data[0] in (348 & 255, 540 & 255) and data[3] == 0 else ">"
    (size,) = struct.unpack_from(f"{order}i", data)
    real, step, turn, rows = ("f", 76, 256, 280) if size == 348 else ("d", 104, 352, 400)
    pixdim = struct.unpack_from(f"{order}8{real}", data, step)
    b, c, d, *origin = struct.unpack_from(f"{order}6{real}", data, turn)
    sform = np.eye(4)
    sform[:3] = np.reshape(struct.unpack_from(f"{order}12{real}", data, rows), (3, 4))
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    qform = np.eye(4)
    for column, unit in enumerate(np.eye(3)):  # the rotation q v q* of a unit vector
        axis = np.array([b, c, d])
        qform[:3, column] = unit + 2 * np.cross(axis, np.cross(axis, unit) + a * unit)
        qform[:3, column] *= pixdim[column + 1] * (pixdim[0] if column == 2 else 1)
    qform[:3, 3] = origin
    return sform, qform


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("seed", [3, 4])
def test_nothing_planted_comes_out_and_voxels_and_geometry_stay(form: NiftiForm, seed: int, tmp_path: Path) -> None:
    """No planted text or number is in a byte of the output; voxels are identical, both transforms within 1e-3 mm."""
    drawn = phantom(form, seed)
    raw = cleaned(drawn.payload, tmp_path, compress=form.compressed)
    data = gzip.decompress(raw) if form.compressed else raw
    source = gzip.decompress(drawn.payload) if form.compressed else drawn.payload
    planted = [one for one in drawn.secrets if not one.where.startswith("sidecar") and "gzip" not in one.where]
    assert len(planted) >= 10
    assert all(one.is_in(source) for one in planted)
    assert [one.where for one in drawn.secrets if one.is_in(data) or one.is_in(raw)] == []
    start = 352 if form.version == 1 else 544
    assert data[start:] == drawn.voxels
    assert data[start - 4 : start] == bytes(4)
    for affine in geometry(data):
        assert np.abs(affine - drawn.affine).max() < 1e-3
    if form.compressed:
        assert raw[3:8] == bytes(5)  # no name, no comment, no time


@pytest.mark.parametrize("form", FORMS[::4], ids=str)
def test_only_listed_fields_hold_anything(form: NiftiForm, tmp_path: Path) -> None:
    """Every byte of a header full of letters is emptied but for the fields of voxels and geometry."""
    data = bytearray(plain(form))
    texts = (
        [(4, 32), (32, 39), (140, 148), (148, 252), (328, 344)]
        if form.version == 1
        else [(240, 344), (508, 524), (525, 540)]
    )
    for first, last in texts:
        data[first:last] = b"Q" * (last - first)
    assert b"QQ" not in cleaned(bytes(data), tmp_path)[: 348 if form.version == 1 else 540]


def test_a_name_that_is_wrong_about_compression_does_not_matter(tmp_path: Path) -> None:
    """The content says whether an image is compressed; the output is what its name says."""
    form = NiftiForm()
    packed, bare = phantom(form).payload, plain(form)
    assert cleaned(packed, tmp_path, compress=False) == cleaned(bare, tmp_path, compress=False)
    assert cleaned(packed, tmp_path, compress=True) == cleaned(bare, tmp_path, compress=True)


def test_a_second_pass_changes_nothing(tmp_path: Path) -> None:
    """What was cleaned is cleaned to the same bytes, compressed or not."""
    for form in FORMS[::3]:
        once = cleaned(phantom(form).payload, tmp_path, compress=form.compressed)
        assert cleaned(once, tmp_path, compress=form.compressed) == once


def test_a_sealed_image_opens_to_the_readable_one(tmp_path: Path) -> None:
    """Sealed on the way, the file opens under its key and name alone, and its record describes the readable form."""
    drawn, key = phantom(NiftiForm(look="series")), DataKey.generate()
    readable = cleaned(drawn.payload, tmp_path, compress=True)
    written, _ = clean_image(
        tmp_path / "source", tmp_path / "sealed", options=ABSENT, compress=True, about_head=False,
        seal=Seal(key=key, name="a/b"),
    )  # fmt: skip
    assert unseal((tmp_path / "sealed").read_bytes(), key=key, name="a/b") == readable
    assert written.size_bytes == len(readable)


def refusal(payload: bytes, folder: Path, options: NiftiOptions = ABSENT) -> str:
    """Return the reason for which an image is refused."""
    with pytest.raises(NiftiError) as refused:
        cleaned(payload, folder, options)
    return refused.value.reason


def test_without_a_word_of_the_site_no_image_passes(tmp_path: Path) -> None:
    """The default quarantines every image; one that speaks of the head passes unless the site says there is none."""
    data = phantom(NiftiForm()).payload
    assert refusal(data, tmp_path, NiftiOptions()) == "nifti-faces"
    (tmp_path / "source").write_bytes(data)
    for faces in ("removed", "kept"):
        options = NiftiOptions(faces=faces)  # type: ignore[arg-type]  of the literal
        clean_image(tmp_path / "source", tmp_path / "t", options=options, compress=True, about_head=True, seal=None)
    with pytest.raises(NiftiError, match="names the head"):
        clean_image(tmp_path / "source", tmp_path / "t", options=ABSENT, compress=True, about_head=True, seal=None)


@pytest.mark.parametrize("version", [1, 2])
def test_what_may_be_a_screen_is_refused(tmp_path: Path, version: int) -> None:
    """Colours are; single slices along any axis are, unless the site has looked at them."""
    form = NiftiForm(version=version, compressed=False)  # type: ignore[arg-type]  of the literal
    assert refusal(plain(form, look="colour"), tmp_path) == "nifti-colour"
    flat = plain(form, look="slice")
    assert refusal(flat, tmp_path) == "nifti-one-slice"
    assert cleaned(flat, tmp_path, NiftiOptions(faces="absent", single_slices="keep"))
    at, size = (42, 2) if version == 1 else (24, 8)
    upright = bytearray(plain(form))
    slices = upright[at + 2 * size : at + 3 * size]
    upright[at : at + size], upright[at + 2 * size : at + 3 * size] = (1).to_bytes(size, "little"), bytearray(slices)
    assert refusal(bytes(upright), tmp_path) == "nifti-one-slice"


@pytest.mark.parametrize("form", FORMS[::2], ids=str)
def test_a_cut_file_is_refused_wherever_it_is_cut(form: NiftiForm, tmp_path: Path) -> None:
    """Cut in the header, the extensions, the voxels or the compressed stream: refused, and nothing is left."""
    data = phantom(form).payload
    end = len(data) if form.compressed else data.rindex(b"END ") - 1
    for cut in {*np.linspace(0, end - 1, 40).astype(int).tolist(), end - 1}:
        assert refusal(data[:cut], tmp_path) in {"nifti-truncated", "nifti-malformed"}, cut


def test_a_damaged_compression_is_refused(tmp_path: Path) -> None:
    """A wrong checksum at the end is found, though all voxels could be read."""
    data = bytearray(phantom(NiftiForm()).payload)
    data[-6] ^= 1
    assert refusal(bytes(data), tmp_path) == "nifti-truncated"


def test_a_bomb_is_refused_before_it_expands(tmp_path: Path) -> None:
    """A file that claims too much is refused by its header; one that goes on behind its voxels, after a mebibyte."""
    data = plain(NiftiForm())
    claims = data[:40] + struct.pack("<4h", 3, 30_000, 30_000, 30_000) + data[48:]
    assert refusal(gzip.compress(claims), tmp_path) == "too-large"
    assert refusal(gzip.compress(data + bytes(64 << 20)), tmp_path) == "nifti-malformed"
    far = data[:108] + struct.pack("<f", 1 << 30) + data[112:]
    assert refusal(far, tmp_path) == "too-large"


@pytest.mark.parametrize(
    ("at", "field", "reason"),
    [
        (0, struct.pack("<i", 349), "nifti-malformed"),
        (40, struct.pack("<h", 0), "nifti-malformed"),
        (40, struct.pack("<h", 8), "nifti-malformed"),
        (42, struct.pack("<h", -3), "nifti-malformed"),
        (42, struct.pack("<h", 0), "nifti-malformed"),
        (70, struct.pack("<h", 1), "nifti-malformed"),
        (72, struct.pack("<h", 7), "nifti-malformed"),
        (80, struct.pack("<f", float("nan")), "nifti-malformed"),
        (108, struct.pack("<f", 300.0), "nifti-malformed"),
        (108, struct.pack("<f", 352.5), "nifti-malformed"),
        (108, struct.pack("<f", float("nan")), "nifti-malformed"),
        (123, b"\xff", "nifti-malformed"),
        (252, struct.pack("<h", 777), "nifti-malformed"),
        (256, struct.pack("<f", float("inf")), "nifti-malformed"),
        (280, struct.pack("<f", float("-inf")), "nifti-malformed"),
        (344, b"ni1\0", "nifti-pair"),
        (344, b"n+9\0", "nifti-malformed"),
        (344, bytes(4), "nifti-malformed"),
    ],
)
def test_a_header_that_does_not_parse_exactly_is_refused(at: int, field: bytes, reason: str, tmp_path: Path) -> None:
    """A wrong length, shape, type, offset, code or magic and what isn't finite have a reason of the fixed list."""
    data = plain(NiftiForm())
    assert refusal(data[:at] + field + data[at + len(field) :], tmp_path) == reason


def test_empty_transforms_and_odd_scales_are_emptied(tmp_path: Path) -> None:
    """Where a code says that there is no transform, its numbers go; a NaN of a scale loses the bits that it carries."""
    data = bytearray(plain(NiftiForm()))
    data[252:256] = bytes(4)
    data[112:120] = b"\x01\x42\xc0\x7f" * 2
    made = cleaned(bytes(data), tmp_path)
    assert made[256:328] == bytes(72)
    assert made[112:120] == struct.pack("<2f", float("nan"), float("nan"))


def test_whatever_a_header_holds_the_output_is_clean_or_absent(tmp_path: Path) -> None:
    """Of 400 headers with random bytes in random places none gives an error that isn't foreseen, or a planted text."""
    rng = np.random.default_rng(8)
    drawn = phantom(NiftiForm(compressed=False))
    fates = set()
    for _ in range(400):
        data = bytearray(drawn.payload)
        first = int(rng.integers(0, 348))
        data[first : first + int(rng.integers(1, 9))] = rng.bytes(int(rng.integers(1, 9)))
        try:
            made = cleaned(bytes(data), tmp_path)
        except NiftiError as error:
            fates.add(error.reason)
            continue
        fates.add("cleaned")
        assert [one.where for one in drawn.secrets if one.is_in(made[:348])] == []
    assert {"cleaned", "nifti-malformed"} <= fates
