"""Files that change together: all old or all new, whatever fails in between."""

from pathlib import Path

import pytest

from fedmed.generations import current, replace_generation


def held(place: Path) -> dict[str, bytes]:
    """Return the current generation's files."""
    folder = current(place)
    assert folder is not None
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_generation_is_whole_and_private(tmp_path: Path):
    """All files are there under one link, readable by their owner only."""
    place = tmp_path / "tls"
    assert current(place) is None
    folder = replace_generation(place, {"key": b"1", "certificate": b"2"})
    assert held(place) == {"key": b"1", "certificate": b"2"}
    assert (place / "current" / "key").read_bytes() == b"1"
    assert {path.stat().st_mode & 0o777 for path in (place, folder)} == {0o700}
    assert (folder / "key").stat().st_mode & 0o777 == 0o600


def test_the_one_before_stays_and_older_ones_go(tmp_path: Path):
    """Whoever has opened a generation finishes with it; two changes later it is gone."""
    first, second, third = (replace_generation(tmp_path, {"n": str(n).encode()}) for n in range(3))
    assert not first.exists()
    assert (second / "n").read_bytes() == b"1"
    assert current(tmp_path) == third


@pytest.mark.parametrize("step", ["write", "link", "rename"])
def test_a_failure_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    """A full disk at any step changes nothing, and leaves nothing behind."""
    replace_generation(tmp_path, {"n": b"old"})
    before = sorted(tmp_path.rglob("*"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if step == "write":
            patched.setattr("fedmed.generations.write_atomic", full)
        else:
            patched.setattr(Path, {"link": "symlink_to", "rename": "replace"}[step], full)
        with pytest.raises(OSError, match="No space left"):
            replace_generation(tmp_path, {"n": b"new"})
    assert held(tmp_path) == {"n": b"old"}
    assert sorted(tmp_path.rglob("*")) == before
