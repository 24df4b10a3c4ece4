"""`fedmed site doctor`: one line for each thing that a site needs, and what cures what is missing.

What it does not do: look at anything; see `doctor`.
"""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.text import Text

from fedmed.crypto import passphrases
from fedmed.crypto.passphrases import Secret
from fedmed_site.console import Commands, add, add_home, home_path, say
from fedmed_site.doctor import Finding, Patient, all_checks, examine
from fedmed_site.home import SiteHome

BAD_EXIT: Final = 2
_MARKS: Final = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "bad": ("BAD ", "red")}
_AFTER: Final = """\
Exit code 0 if nothing is red, 2 if anything is. With the key file or the passphrase of the site's keys the doctor also
asks the coordinator for its health, as the site will, and compares the clocks.

  fedmed site doctor
  fedmed site doctor --key-file unlock.key
"""


def add_commands(commands: Commands) -> None:
    """Add the command to `fedmed site`."""
    doctor = add(
        commands, "doctor", "look at everything that this site needs, and say what cures it", _run, after=_AFTER
    )
    doctor.add_argument("--json", action="store_true", help="as JSON, for machines")
    doctor.add_argument("--passphrase-file", type=Path, metavar="F", help="file with the passphrase of the site's keys")
    doctor.add_argument("--key-file", type=Path, metavar="F", help="file of 32 random bytes instead")
    add_home(doctor)


def _run(parsed: argparse.Namespace) -> int:
    home = SiteHome.open(home_path(parsed))
    return show(examine(Patient(home=home, secret=_secret(parsed)), all_checks()), as_json=parsed.json)


def show(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print findings as they come, and return the exit code."""
    seen = []
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        seen.append(finding)
        if not as_json:
            mark, colour = _MARKS[finding.level]
            console.print(Text.assemble((mark, colour), f"  {finding.name:<12} {finding.found}"))
            if finding.level != "ok":
                console.print(Text(f"      {'':<12} cure: {finding.cure}"))
    red = [finding for finding in seen if finding.level == "bad"]
    if as_json:
        say(msgspec.json.encode({"version": 1, "good": not red, "findings": seen}, order="sorted").decode())
    else:
        console.print(Text(f"{len(red)} to cure" if red else "nothing stops this site"))
    return BAD_EXIT if red else 0


def _secret(parsed: argparse.Namespace) -> Secret | None:
    """Return the secret if its source is named; the doctor never prompts."""
    variables = (passphrases.VARIABLE, passphrases.KEY_FILE_VARIABLE)
    if not (parsed.passphrase_file or parsed.key_file or any(os.environ.get(name) for name in variables)):
        return None
    return passphrases.obtain_secret(
        passphrase_file=parsed.passphrase_file, key_file=parsed.key_file, use="existing key"
    )
