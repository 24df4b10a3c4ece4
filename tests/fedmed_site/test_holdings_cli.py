"""`fedmed site prepare` and `base`: what comes in is checked, kept under its digest, and logged."""

from pathlib import Path

import msgspec
import pytest
import yaml
from federation import tiny_dataset, write_table

from fedmed.audit import ChainLog
from fedmed.errors import FedMedError, UsageError
from fedmed.models import Architecture, build_module, save_base
from fedmed.models.folder import folder_digest
from fedmed.records import ModelSpec
from fedmed_site import cli
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """Return a new site."""
    assert cli.site(["init", "--home", str(tmp_path / "home"), "--name", "north"]) == 0
    return SiteHome.open(tmp_path / "home")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return the folder of a base model."""
    architecture = Architecture.of(ModelSpec(family="linear", adapter="full"), features=3, classes=2)
    save_base(tmp_path / "base", architecture, build_module(architecture, seed=0))
    return tmp_path / "base"


def run(home: SiteHome, *words: object) -> int:
    """Run a command of the site."""
    return cli.site([*map(str, words), "--home", str(home.root)])


def test_a_table_becomes_a_data_set(home: SiteHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """De-identified, with a ledger, and with the command that allows its use; no cell is printed."""
    names = write_table(tmp_path / "raw.csv", rows=60, seed=1)
    described = tmp_path / "tiny.yaml"
    described.write_text(yaml.safe_dump(msgspec.to_builtins(tiny_dataset())))
    assert run(home, "prepare", tmp_path / "raw.csv", "--data", described) == 0
    shown = capsys.readouterr().out
    assert "60 of 60 rows kept" in shown
    assert "fedmed site policy allow tiny ill" in shown
    assert not any(name in shown for name in names)
    agent = SiteAgent(home)
    assert agent.datasets.holds("tiny")
    assert agent.ledger("tiny").spent() == 0


def test_shipped_data_sets_are_named(home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """A site can use what FedMed describes already."""
    assert run(home, "prepare", "--list") == 0
    assert "heart_disease" in capsys.readouterr().out.split()


@pytest.mark.parametrize("words", [[], ["nowhere.csv"], ["nowhere.csv", "--data", "heart_disease"], ["--data", "x"]])
def test_a_table_that_is_not_there(home: SiteHome, words: list[str]):
    """Nothing is made of nothing."""
    with pytest.raises(UsageError):
        run(home, "prepare", *words)
    assert not (home.root / "data").exists()


def test_an_unknown_description_is_refused(home: SiteHome, tmp_path: Path):
    """Neither a name that isn't shipped nor a file that describes nothing passes."""
    write_table(tmp_path / "raw.csv", rows=10, seed=1)
    (tmp_path / "odd.yaml").write_text("name: odd\nnonsense: 1\n")
    for data in ("no-such", tmp_path / "odd.yaml"):
        with pytest.raises(FedMedError):
            run(home, "prepare", tmp_path / "raw.csv", "--data", data)


def test_a_base_is_kept_under_its_digest(home: SiteHome, base: Path, capsys: pytest.CaptureFixture[str]):
    """Taken in once, logged with who did it, readable by the owner only."""
    digest = folder_digest(base)
    assert run(home, "base", base, "--digest", digest.upper()) == 0
    assert folder_digest(home.models / digest) == digest
    assert all(path.stat().st_mode & 0o077 == 0 for path in (home.models / digest, *(home.models / digest).iterdir()))
    assert run(home, "base", base) == 0
    assert "already" in capsys.readouterr().out
    (entry,) = ChainLog(home.audit_path).entries()
    assert (entry.kind, entry.body["base"]) == ("base-added", digest)


def test_another_base_than_the_plan_names_is_refused(home: SiteHome, base: Path):
    """What was changed on its way is not taken in, and nothing of it stays."""
    digest = folder_digest(base)
    weights = base / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(FedMedError):
        run(home, "base", base, "--digest", digest)
    assert list(home.models.iterdir()) == []
    assert ChainLog(home.audit_path).entries() == []


def test_a_base_holds_plain_files_only(home: SiteHome, base: Path):
    """A link out of the folder is not followed, at any depth."""
    (base / "inner").mkdir()
    for link in (base / "link", base / "inner" / "link"):
        link.symlink_to("/etc/passwd")
        with pytest.raises(UsageError, match="plain files"):
            run(home, "base", base)
        link.unlink()
    with pytest.raises(UsageError, match="found none"):
        run(home, "base", base / "nowhere")
    assert list(home.models.iterdir()) == []
