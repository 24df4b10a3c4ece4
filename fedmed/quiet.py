"""Flower without calls home: no telemetry, no update checks, no installation of what a bundle asks for.

Why it exists: Flower reads these switches when it is imported, and a hospital's machine
has no business with anybody but its coordinator.

What it does not do: import Flower. Call `hush` first, in every process that will.
"""

import os
from typing import Final

QUIET: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_INTERNAL_GRPC_CONTROL_API": "0",
    "FLWR_INTERNAL_GRPC_FLEET_API": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def hush() -> None:
    """Set the switches for this process and those that it starts."""
    os.environ.update(QUIET)
