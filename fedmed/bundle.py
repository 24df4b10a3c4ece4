"""The Flower app bundle (FAB) of every run: two texts, no code, the same bytes wherever this version is installed.

Why it exists: Flower wants a bundle with each run. Ours only names what is installed
already, so a site can compute its digest and refuse any other before opening it.

Rules:
    * The bytes follow from the version of FedMed alone: fixed order, fixed dates, no compression.
    * It holds a pyproject.toml and a README, nothing that could run.
    * All that a run says beyond that is in three texts of its configuration: the plan, its digest, its signatures.

What it does not do: open a bundle that came from elsewhere. Nobody here does.

Source: the layout is that of Flower 1.41's `flwr build`.
"""

import hashlib
import io
import zipfile
from functools import cache
from typing import Final

from fedmed import __version__

PLAN_KEY: Final = "plan"
"""Canonical JSON of the plan."""
PLAN_DIGEST_KEY: Final = "plan-digest"
"""SHA-256 of that JSON, in hexadecimal digits."""
PLAN_SIGNATURES_KEY: Final = "plan-signatures"
"""Who launched the plan and who agreed to it: `fedmed.signed_plans`."""
FOREIGN: Final = "foreign"
"""What a SuperNode writes in the place of the version of a run that came with another bundle."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_README: Final = (
    b"# FedMed\n\nThis bundle holds no code. Sites and the coordinator run the FedMed that they have installed.\n"
)


def _pyproject() -> bytes:
    return f"""[project]
name = "fedmed"
version = "{__version__}"
description = "Names the installed FedMed; holds no code"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedmed"

[tool.flwr.app.components]
serverapp = "fedmed_server.server_app:app"
clientapp = "fedmed_site.client_app:app"

[tool.flwr.app.config]
{PLAN_KEY} = ""
{PLAN_DIGEST_KEY} = ""
{PLAN_SIGNATURES_KEY} = ""
""".encode()


@cache
def bundle() -> bytes:
    """Return the bundle, a ZIP archive of about 2 kB.

    >>> sorted(zipfile.ZipFile(io.BytesIO(bundle())).namelist())
    ['.info/CONTENT', 'README.md', 'pyproject.toml']
    """
    files = {"pyproject.toml": _pyproject(), "README.md": _README}
    content = "\n".join(
        f"{name},{hashlib.sha256(data).hexdigest()},{8 * len(data)}" for name, data in files.items()
    ).encode()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (files | {".info/CONTENT": content}).items():
            archive.writestr(zipfile.ZipInfo(name, date_time=_EPOCH), data)
    return target.getvalue()


@cache
def bundle_digest() -> str:
    """Return the SHA-256 of the bundle in hexadecimal digits, as Flower names it."""
    return hashlib.sha256(bundle()).hexdigest()
