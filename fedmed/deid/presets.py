"""From a mapping (a policy file) to a `DeidPolicy`, and what the shipped names promise at least.

Why it exists: an audit record that says `hipaa-safe-harbor` must not hide a policy that
somebody loosened afterwards. Who needs other options gives the policy another name.

Rules:
    * A name below stands for at least its preset's strictness; it may be made stricter.
    * No name is a statement about a law being met: a policy says what was done to a table, nothing more.

What it does not do: read files (see `fedmed.config`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedmed.deid.hierarchies import HierarchyName
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.preset_names import PRESETS
from fedmed.errors import ConfigError
from fedmed.records import build, require


@dataclass(frozen=True, slots=True, kw_only=True)
class _Promise:
    """What every policy of one name keeps to."""

    dates: tuple[str, ...]
    free_text: tuple[str, ...]
    k: int
    floors: Mapping[HierarchyName, int] = field(default_factory=dict)


_PROMISES: Mapping[str, _Promise] = {
    "hipaa-safe-harbor": _Promise(
        dates=("year", "drop"),
        free_text=("drop",),
        k=1,
        floors={"date": 3, "zip-us": 1, "address-cn": 2, "division-cn": 2},
    ),
    "pipl-strict": _Promise(
        dates=("month", "year", "drop"),
        free_text=("drop",),
        k=5,
        floors={"age": 1, "date": 1, "zip-us": 1, "address-cn": 1, "division-cn": 1},
    ),
    "research-longitudinal": _Promise(
        dates=("shift", "month", "year", "drop"),
        free_text=("drop", "clean"),
        k=5,
        floors={"zip-us": 1, "address-cn": 1, "division-cn": 1},
    ),
}
require(tuple(_PROMISES) == PRESETS, "each shipped name has a promise")


def policy_from(mapping: Mapping[str, object], *, at: str = "deid") -> DeidPolicy:
    """Return the policy that a file holds.

    >>> policy_from({"profile": "our-own", "dates": "month"}).dates
    'month'

    Args:
        mapping: What a YAML reader returned.
        at: The key under which it stands, for messages.

    Raises:
        ConfigError: A key is unknown or out of range, or the policy bears a shipped name and is looser.
    """
    policy = build(dict(mapping), DeidPolicy, at=at)
    check_promise(policy, at=at)
    return policy


def check_promise(policy: DeidPolicy, *, at: str = "deid") -> None:
    """Raise if `policy` bears the name of a shipped one and is looser.

    Raises:
        ConfigError: The message names the key, what it takes under this name, and what it got.
    """
    promise = _PROMISES.get(policy.profile)
    if promise is None:
        return
    cure = f"under the name {policy.profile}; give a looser policy another profile name"
    if policy.dates not in promise.dates:
        raise ConfigError(f"{at}.dates: expected one of: {', '.join(promise.dates)}; got {policy.dates} {cure}")
    if policy.free_text not in promise.free_text:
        raise ConfigError(
            f"{at}.free_text: expected one of: {', '.join(promise.free_text)}; got {policy.free_text} {cure}"
        )
    if policy.k < promise.k:
        raise ConfigError(f"{at}.k: expected at least {promise.k}, got {policy.k} {cure}")
    for name, level in promise.floors.items():
        if policy.floors.get(name, 0) < level:
            raise ConfigError(f"{at}.floors.{name}: expected at least {level}, got {policy.floors.get(name, 0)} {cure}")
