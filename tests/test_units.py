"""The systemd units of both kits are valid, and as closed as they say."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
UNITS = [CHECKOUT / "sites/kit/fedmed-site.service", CHECKOUT / "server/kit/fedmed-coordinator.service"]
MOST_EXPOSURE = 20
"""In tenths; systemd calls up to 20 OK."""


def analyse(*words: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("needs systemd-analyze")
    return subprocess.run([tool, *words], capture_output=True, text=True, check=False)  # noqa: S603  systemd's own


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_the_unit_is_valid(unit: Path, tmp_path: Path):
    """Every line is one that systemd knows; the program is found where it is installed."""
    text = unit.read_text().replace("/opt/fedmed/bin/fedmed", sys.executable)
    installed = tmp_path / unit.name
    installed.write_text(text)
    done = analyse("verify", str(installed))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_the_unit_exposes_little(unit: Path):
    """Systemd's own count of what a broken-in service could do stays low."""
    done = analyse("security", "--offline=true", f"--threshold={MOST_EXPOSURE}", str(unit))
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_the_key_is_a_credential(unit: Path):
    """What opens the keys is neither in the unit nor beside the folder that it opens."""
    text = unit.read_text()
    assert "LoadCredentialEncrypted=unlock:" in text
    assert "--key-file ${CREDENTIALS_DIRECTORY}/unlock" in text
