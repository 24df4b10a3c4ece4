"""`fedmed site machine`: what studies are computed on, and how much memory they may take.

Why it exists: a site's computer often does other things too, and its graphics card may be somebody else's.

Rules:
    * What is set here changes how fast a study runs and whether it can, never what comes out but its last digits; so it
      is no policy, no plan names it, and it needs no agreement.
    * A running agent reads it anew for each task.

What it does not do: limit interpreters, libraries and data: the ceiling is on tensors.
"""

import argparse
from dataclasses import replace

from fedmed.errors import UsageError
from fedmed.files import held_alone, write_atomic
from fedmed.records import MachineSpec, canonical_json
from fedmed_site.console import Commands, add, add_home, opened, say
from fedmed_site.policy_cli import PATIENCE_S

_AFTER = """\
Without an option it says what is set and found.

  fedmed site machine
  fedmed site machine --device cpu --memory-gb 8
  fedmed site machine --memory-gb none
"""


def add_commands(commands: Commands) -> None:
    """Add the command to `fedmed site`."""
    machine = add(commands, "machine", "what studies are computed on, and with how much memory", _run, after=_AFTER)
    machine.add_argument("--device", choices=["auto", "cpu", "cuda"], help="a graphics card where there is one, or not")
    machine.add_argument("--memory-gb", metavar="N|none", help="most GiB that a training may hold in tensors")
    add_home(machine)


def _run(parsed: argparse.Namespace) -> int:
    from fedmed.learning.machine import Machine  # noqa: PLC0415  it imports torch

    home = opened(parsed)
    spec = _changed(home.record().machine, parsed)
    found = Machine.found(spec)  # a card that is not there is refused before anything is written
    if spec != home.record().machine:
        with held_alone(home.lock_path, patience_s=PATIENCE_S) as alone:
            if not alone:
                raise UsageError("a task runs right now; try again when it has ended, or say: fedmed site pause")
            write_atomic(home.record_path, canonical_json(replace(home.record(), machine=spec)))
        say("changed; it holds from the next task on")
    say(f"set       device {spec.device}, memory {'without a bound' if spec.memory_gb is None else spec.memory_gb}")
    say(f"computes  {found}")
    return 0


def _changed(spec: MachineSpec, parsed: argparse.Namespace) -> MachineSpec:
    if parsed.device is not None:
        spec = replace(spec, device=parsed.device)
    if parsed.memory_gb is None:
        return spec
    try:
        most = None if parsed.memory_gb in {"none", "null"} else float(parsed.memory_gb)
        return replace(spec, memory_gb=most)
    except ValueError:
        raise UsageError(f"--memory-gb: expected a number above 0, or none, got {parsed.memory_gb!r}") from None
