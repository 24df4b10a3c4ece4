"""The systemd units of both kits are valid, and as closed as they say."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
SITE, NODE = CHECKOUT / "sites/kit/fedmed-site.service", CHECKOUT / "sites/kit/fedmed-site-node.service"
COORDINATOR = CHECKOUT / "server/kit/fedmed-coordinator.service"
UNITS = [SITE, NODE, COORDINATOR]
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


@pytest.mark.parametrize("unit", [SITE, COORDINATOR], ids=lambda path: path.stem)
def test_the_key_is_a_credential(unit: Path):
    """What opens the keys is neither in the unit nor beside the folder that it opens."""
    text = unit.read_text()
    assert "LoadCredentialEncrypted=unlock:" in text
    assert "--key-file ${CREDENTIALS_DIRECTORY}/unlock" in text


def test_who_has_the_data_has_no_network_and_who_has_the_network_has_no_data():
    """The two services of a site share a socket, and neither user nor folder; the kernel can tell them apart."""
    site, node = (_settings(unit) for unit in (SITE, NODE))
    assert (site["PrivateNetwork"], site["RestrictAddressFamilies"]) == ("yes", "AF_UNIX")
    assert site["PrivateUsers"] == "no", "the kernel would call every caller `nobody`"
    assert node["User"] not in {site["User"], "root"}
    assert f"--node-user {node['User']}" in site["ExecStart"]
    assert node["InaccessiblePaths"] == f"-/var/lib/{site['StateDirectory']}"
    assert "StateDirectory" not in node
    door = node["ExecStart"].rpartition("--agent ")[2]
    assert f"--node-socket {door} " in site["ExecStart"]
    assert Path(door).parent.name == site["RuntimeDirectory"]


def _settings(unit: Path) -> dict[str, str]:
    lines = unit.read_text().replace("\\\n", "").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
