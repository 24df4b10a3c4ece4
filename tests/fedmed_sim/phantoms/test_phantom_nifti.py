"""NIfTI phantoms are sound images that hold what they say they hold."""

import gzip
import json
import struct

import numpy as np
import pytest

from fedmed_sim.phantoms.nifti import NiftiForm, NiftiPhantom, draw_form, draw_nifti
from fedmed_sim.phantoms.people import draw_person

FORMS = [NiftiForm(version=1), NiftiForm(version=2), NiftiForm(order=">"), NiftiForm(compressed=False, look="series")]


def drawn(form: NiftiForm, seed: int = 0) -> NiftiPhantom:
    """Return the phantom of a seed."""
    rng = np.random.default_rng(seed)
    return draw_nifti(rng, draw_person(rng, "en"), name="a/b", form=form)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_secret_is_where_it_is_said_to_be(form: NiftiForm) -> None:
    """Each planted text or number is in the image, in what gzip says of it, or in the sidecar; the rest is geometry."""
    phantom = drawn(form)
    plain = gzip.decompress(phantom.payload) if form.compressed else phantom.payload
    for secret in phantom.secrets:
        place = plain
        if "gzip" in secret.where:
            place = phantom.payload
        elif secret.where.startswith("sidecar"):
            place = phantom.sidecar
        assert secret.is_in(place), secret.where
    assert phantom.voxels in plain
    assert phantom.name == ("a/b.nii.gz" if form.compressed else "a/b.nii")
    found = json.loads(phantom.sidecar)
    assert all(
        found[key] == (list(value) if isinstance(value, tuple) else value) for key, value in phantom.kept.items()
    )


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_voxels_lie_where_the_header_says(form: NiftiForm) -> None:
    """Length, magic, shape, bits and offset of the header agree with the bytes behind it."""
    phantom = drawn(form)
    plain = gzip.decompress(phantom.payload) if form.compressed else phantom.payload
    order = form.order
    if form.version == 1:
        assert struct.unpack_from(f"{order}i", plain)[0] == 348
        assert plain[344:348] == b"n+1\0"
        dims, (bits,), (offset,) = (
            struct.unpack_from(f"{order}{what}", plain, at) for what, at in (("8h", 40), ("h", 72), ("f", 108))
        )
    else:
        assert struct.unpack_from(f"{order}i", plain)[0] == 540
        assert plain[4:8] == b"n+2\0"
        dims, (bits,), (offset,) = (
            struct.unpack_from(f"{order}{what}", plain, at) for what, at in (("8q", 16), ("h", 14), ("q", 168))
        )
    size = int(np.prod(dims[1 : dims[0] + 1])) * bits // 8
    assert plain[int(offset) : int(offset) + size] == phantom.voxels


def test_the_same_seed_gives_the_same_bytes_and_forms_differ() -> None:
    """A seed is a file; over many draws both versions, orders and looks occur."""
    assert drawn(NiftiForm()).payload == drawn(NiftiForm()).payload != drawn(NiftiForm(), 1).payload
    rng = np.random.default_rng(0)
    forms = [draw_form(rng) for _ in range(200)]
    assert {form.version for form in forms} == {1, 2}
    assert {form.order for form in forms} == {"<", ">"}
    assert {form.look for form in forms} == {"volume", "series", "colour", "slice"}
