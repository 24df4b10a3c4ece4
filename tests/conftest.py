"""What every test may use: the place of the real data, or a reason to skip."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("fedmed", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("fedmed")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def heart_root() -> Path:
    """Return the folder of the UCI Heart Disease files in the publisher's format."""
    root = SHARED_DATA / "heart-disease"
    if not root.is_dir():
        pytest.skip("needs the UCI Heart Disease files in ../shared/data/heart-disease")
    return root
