"""A site's seal key is replaced: whatever it guarded opens as before, also when the machine stops in between."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedmed.audit import ChainLog
from fedmed.errors import IntegrityError, UsageError
from fedmed.secagg import store
from fedmed_site import cli, key_rotation
from fedmed_site.home import SiteHome
from fedmed_site.key_rotation import KIND, rotate

Step = Callable[..., None]


class PowerCutError(Exception):
    """The machine stops."""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder with a site, two sealed folders of items and a file in quarantine."""
    home = tmp_path / "home"
    assert cli.site(["init", "--home", str(home), "--name", "north"]) == 0
    for name in ("one", "two"):
        source = tmp_path / f"source-{name}"
        source.mkdir()
        (source / "a.txt").write_text(f"Mild anaemia, ward {name}.")
        (source / f"{name}.png").write_bytes(b"\x89PNG")
        words = [str(source), "--out", str(tmp_path / name), "--home", str(home), "--policy", "pipl-strict"]
        assert cli.site(["deidentify", *words, "--workers", "1"]) == 0
    return tmp_path


def opens_all(root: Path, target: str) -> None:
    """Check that the site opens its folders, its quarantine and its state, and that everything verifies."""
    home = ["--home", str(root / "home")]
    for name in ("one", "two"):
        assert cli.site(["unseal", str(root / name), "--to", str(root / target / name), *home]) == 0
        (note,) = (root / target / name).rglob("*.txt")
        assert f"ward {name}" in note.read_text()
    (item, *_) = (path.name.split(".")[0] for path in (root / "home" / "quarantine").rglob("*.sealed"))
    words = [item, "--to", str(root / target / "back"), "--reason", "sent back"]
    assert cli.site(["quarantine", "release", *words, *home]) == 0
    opened = SiteHome.open(root / "home")
    store.restore(opened.secagg_state_path, site="north", site_key=opened.seal_key_path.read_bytes())
    assert cli.audit(["verify", *home]) == 0


def test_everything_opens_under_the_new_key_and_nothing_under_the_old(site: Path, capsys: pytest.CaptureFixture[str]):
    """After the command the old key is gone and opens nothing, every item is as before, and the log has both ids."""
    home = SiteHome.open(site / "home")
    before = home.seal_key_path.read_bytes()
    items = {path: path.read_bytes() for name in ("one", "two") for path in (site / name / "items").rglob("*.sealed")}
    assert cli.site(["key", "rotate", "--home", str(site / "home"), "--yes"]) == 0
    after = home.seal_key_path.read_bytes()
    assert after != before
    assert {path: path.read_bytes() for path in items} == items
    opens_all(site, "opened")
    everything = b"\n".join(path.read_bytes() for path in site.rglob("*") if path.is_file())
    assert before not in everything
    assert before.hex().encode() not in everything
    with pytest.raises(IntegrityError):
        store.restore(home.secagg_state_path, site="north", site_key=before)
    (body,) = [entry.body for entry in ChainLog(home.audit_path).entries() if entry.kind == KIND]
    assert (body["wraps"], body["folders"], body["folders_missing"]) == (3, 2, 0)
    printed = capsys.readouterr().out
    assert str(body["before"]) in printed
    assert str(body["after"]) in printed
    assert after.hex() not in printed


def test_a_power_cut_at_any_write_loses_nothing(site: Path, monkeypatch: pytest.MonkeyPatch):
    """Cut before or after each durable write, the site refuses all else, and the command ends with one record."""
    writes = {"write_atomic": key_rotation, "save": store, "_record": key_rotation}
    cuts = 0
    for number in range(100):
        root = site.parent / f"{site.name}-{number}"
        shutil.copytree(site, root)
        for one in (root / "home" / "batches").iterdir():
            one.write_text(one.read_text().replace(str(site), str(root)))
        home = SiteHome.open(root / "home")
        left = iter(range(number + 1))

        def tick(left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise PowerCutError

        with monkeypatch.context() as patched:
            for name, module in writes.items():
                real = getattr(module, name)

                def cut(*args: object, real: Step = real, tick: Step = tick, **more: object) -> None:
                    tick()
                    real(*args, **more)
                    tick()

                patched.setattr(module, name, cut)
            try:
                rotate(home, by="tester")
            except PowerCutError:
                cuts += 1
        if home.next_seal_key_path.exists():
            with pytest.raises(UsageError, match="key rotate"):
                SiteHome.open(home.root)
        elif number > 1:
            break
        assert cli.site(["key", "rotate", "--home", str(home.root), "--yes"]) == 0
        opens_all(root, "opened")
        kinds = [entry.kind for entry in ChainLog(home.audit_path).entries()]
        assert kinds.count(KIND) == 1
        shutil.rmtree(root)
    assert cuts >= 16


def test_a_rotation_waits_for_no_agent_and_keeps_foreign_wraps(site: Path):
    """A wrap under neither key stops the rotation before the old key is touched."""
    home = SiteHome.open(site / "home")
    before = home.seal_key_path.read_bytes()
    other = site / "other"
    assert cli.site(["init", "--home", str(other), "--name", "south"]) == 0
    (wrap, *_) = home.keys.glob("data/*.json")
    good = wrap.read_bytes()
    home.seal_key_path.write_bytes(os.urandom(32))
    with pytest.raises(IntegrityError):
        rotate(home, by="tester")
    assert wrap.read_bytes() == good
    home.seal_key_path.write_bytes(before)
    assert cli.site(["key", "rotate", "--home", str(home.root), "--yes"]) == 0
    opens_all(site, "opened")
