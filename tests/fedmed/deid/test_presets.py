"""Shipped policies: they load, they are what their names say, and their names cannot be borrowed."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedmed.config import config_dir, load
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.preset_names import PRESETS
from fedmed.deid.presets import policy_from
from fedmed.errors import ConfigError


def preset(name: str) -> dict[str, object]:
    """Return a shipped file as a mapping."""
    return yaml.safe_load((config_dir() / "deid" / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_shipped_file_is_a_policy_of_its_name(name: str):
    """By either reader of YAML, the file gives one policy, and its profile is the file's name."""
    policy = policy_from(preset(name))
    assert policy.profile == name
    assert load(DeidPolicy, config_dir() / "deid" / f"{name}.yaml") == policy


def test_every_shipped_file_is_a_known_name():
    """No file of the folder goes without a promise."""
    assert {path.stem for path in Path(config_dir() / "deid").glob("*.yaml")} == set(PRESETS)


@pytest.mark.parametrize(
    ("name", "looser", "match"),
    [
        ("hipaa-safe-harbor", {"dates": "month"}, r"deid\.dates: expected one of: year, drop; got month"),
        ("hipaa-safe-harbor", {"dates": "shift"}, "dates"),
        ("hipaa-safe-harbor", {"free_text": "clean"}, "free_text"),
        ("hipaa-safe-harbor", {"floors": {"date": 3, "zip-us": 0, "address-cn": 2, "division-cn": 2}}, "zip-us"),
        ("hipaa-safe-harbor", {"floors": {}}, "floors"),
        ("pipl-strict", {"k": 4}, r"deid\.k: expected at least 5, got 4"),
        ("pipl-strict", {"dates": "shift"}, "dates"),
        ("pipl-strict", {"free_text": "clean"}, "free_text"),
        ("research-longitudinal", {"k": 1}, "k"),
    ],
)
def test_a_looser_policy_needs_another_name(name: str, looser: dict[str, object], match: str):
    """The audit never says a shipped name over a loosened policy; under its own name anything valid goes."""
    with pytest.raises(ConfigError, match=match):
        policy_from(preset(name) | looser)
    assert policy_from(preset(name) | looser | {"profile": "our-own"}).profile == "our-own"


@pytest.mark.parametrize("name", PRESETS)
def test_a_shipped_policy_may_be_made_stricter(name: str):
    """More patients a class and no dates at all are taken under every name."""
    assert policy_from(preset(name) | {"k": 20, "dates": "drop", "sensitive": "drop"}).k == 20


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"date": "year"}, r"deid\.date: unknown key"),
        ({"k": "five"}, r"deid\.k: expected int"),
        ({"dates": "week"}, r"deid\.dates: expected one of: shift, month, year, drop"),
        ({"suppression_limit": 1.0}, "suppression_limit must be in"),
        ({"quasi_identifiers": [{"column": "age", "hierarchy": "ages"}]}, "hierarchy"),
        ({"quasi_identifiers": [{"column": "age", "hierarchy": "age", "at_least": 9}]}, "at_least must be in"),
    ],
)
def test_a_mistake_in_a_policy_file_is_named(wrong: dict[str, object], match: str):
    """The key, what it takes and what it got."""
    with pytest.raises(ConfigError, match=match):
        policy_from({"profile": "our-own"} | wrong)


def test_commands_that_clean_nothing_start_without_the_engines():
    """Whoever asks for a site's status does not wait for tables, models and images."""
    program = "import sys, fedmed_site.cli; print(sorted({'polars', 'sklearn', 'torch', 'pydicom'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603  our own
    assert done.stdout.strip() == "[]"
