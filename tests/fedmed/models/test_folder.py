"""A model folder is its digest: one other bit is another model, and is refused."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmed.errors import FedMedError, IntegrityError, ModelError
from fedmed.models import Architecture, build_module, folder_digest, load_module, save_base, state_digest
from fedmed.models.folder import CONFIG, WEIGHTS

MLP = Architecture(family="mlp", features=3, classes=2, width=4, depth=1, heads=1)
WIDER = Architecture(family="mlp", features=3, classes=2, width=6, depth=1, heads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model folder."""
    save_base(tmp_path / "model", MLP, build_module(MLP, seed=1))
    return tmp_path / "model"


def test_a_saved_module_comes_back(folder: Path):
    """The same architecture, the same weights, in another process too: only the folder and its name are needed."""
    architecture, module = load_module(folder, expected_digest=folder_digest(folder))
    assert architecture == MLP
    assert state_digest(module) == state_digest(build_module(MLP, seed=1))


def test_saving_returns_the_digest_that_loading_expects(tmp_path: Path):
    """What the coordinator puts into a plan is what a site checks."""
    name = save_base(tmp_path / "deep" / "model", MLP, build_module(MLP, seed=1))
    assert len(name) == 64
    assert name == folder_digest(tmp_path / "deep" / "model")


def test_equal_modules_have_equal_digests(tmp_path: Path):
    """The name of a base doesn't depend on where or when it was written; other weights have another."""
    names = [save_base(tmp_path / str(i), MLP, build_module(MLP, seed=seed)) for i, seed in enumerate((1, 1, 2))]
    assert names[0] == names[1] != names[2]


def test_files_beside_do_not_change_the_digest(folder: Path):
    """A model card may be added."""
    before = folder_digest(folder)
    (folder / "README.md").write_text("card")
    assert folder_digest(folder) == before


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_flipped_bit_is_another_model(folder: Path, data: st.DataObject):
    """Anywhere in either file: the folder is refused before its weights are read."""
    path = folder / data.draw(st.sampled_from([CONFIG, WEIGHTS]))
    expected, whole = folder_digest(folder), path.read_bytes()
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    try:
        with pytest.raises(IntegrityError, match=f"expected model {expected[:12]}"):
            load_module(folder, expected_digest=expected)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder: Path, name: str):
    """The message says which file, and what to do."""
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"expected {name} .* copy the whole folder again"):
        folder_digest(folder)


def test_swapped_files_are_another_model(folder: Path):
    """The digest covers which file is which."""
    before = folder_digest(folder)
    config = (folder / CONFIG).read_bytes()
    (folder / CONFIG).write_bytes((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).write_bytes(config)
    assert folder_digest(folder) != before


def test_weights_of_another_architecture_are_refused(folder: Path):
    """Also where a digest vouches for the folder: a width that doesn't fit is no model."""
    save_base(folder, WIDER, build_module(MLP, seed=1))
    with pytest.raises(ModelError, match="weights of a mlp model"):
        load_module(folder, expected_digest=folder_digest(folder))


@pytest.mark.parametrize("data", [b"", b"\x80\x04N.", b"PK\x03\x04"], ids=["empty", "pickle", "zip"])
def test_nothing_but_safetensors_is_read(folder: Path, data: bytes):
    """A pickle that could run code is refused like any other damage."""
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(FedMedError):
        load_module(folder, expected_digest=folder_digest(folder))


def test_a_configuration_of_another_kind_is_refused(folder: Path):
    """A digest vouches for bytes, not for sense."""
    (folder / CONFIG).write_bytes(b'{"family": "mlp"}')
    with pytest.raises(IntegrityError, match="Architecture"):
        load_module(folder, expected_digest=folder_digest(folder))


def test_a_module_trained_on_a_device_view_is_stored_contiguously(tmp_path: Path):
    """A transposed weight is stored by its values."""
    module = build_module(MLP, seed=1)
    layer = module.body[0]  # type: ignore[index, union-attr]
    layer.weight = torch.nn.Parameter(layer.weight.detach().T.contiguous().T)
    assert not layer.weight.is_contiguous()
    name = save_base(tmp_path, MLP, module)
    assert state_digest(load_module(tmp_path, expected_digest=name)[1]) == state_digest(build_module(MLP, seed=1))
