"""The fewest records that a count of a readiness page may show, apart from the engines that make one.

What it does not do: count (see `readiness`).
"""

from typing import Final

LEAST_K: Final = 5
