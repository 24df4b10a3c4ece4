"""Behaviour of the bundle that goes with every run."""

import io
import subprocess
import sys
import zipfile

from flwr.cli.config_utils import get_fab_metadata
from flwr.common.config import get_fab_config

from fedmed import __version__
from fedmed.bundle import PLAN_DIGEST_KEY, PLAN_KEY, PLAN_SIGNATURES_KEY, bundle, bundle_digest


def test_flower_takes_it():
    """Flower reads the bundle as an app whose run takes exactly our three texts."""
    config = get_fab_config(bundle())
    assert set(config["tool"]["flwr"]["app"]["config"]) == {PLAN_KEY, PLAN_DIGEST_KEY, PLAN_SIGNATURES_KEY}
    assert get_fab_metadata(bundle()) == ("fedmed/fedmed", __version__)


def test_it_holds_no_code():
    """Two texts and Flower's list of them, nothing that Python or a shell would run."""
    names = zipfile.ZipFile(io.BytesIO(bundle())).namelist()
    assert sorted(names) == [".info/CONTENT", "README.md", "pyproject.toml"]


def test_its_digest_is_the_same_in_every_process():
    """A site compares the digest of a run's bundle with the one it computes itself."""
    code = "from fedmed.bundle import bundle_digest; print(bundle_digest())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  our code
    assert done.stdout.strip() == bundle_digest()
