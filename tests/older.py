"""Records as an older version wrote them: without fields that came later."""

import json
from typing import Any, TypeVar

from fedmed.records import Plan, canonical_json, decode

Record = TypeVar("Record")
LATER = ("model.precision", "model.checkpointing", "model.lora_rule", "data.normalisation", "training.average_from",
         "continual.fisher", "optimiser")  # fmt: skip
"""Fields of a plan, at their defaults, which some older version had not."""


def without(record: object, *fields: str) -> bytes:
    """Return the canonical JSON of a record without some fields, as a version that didn't know them wrote it."""
    plain: Any = json.loads(canonical_json(record))
    for field in fields:
        *above, last = field.split(".")
        inner = plain
        for name in above:
            inner = inner[int(name) if name.isdigit() else name]
        del inner[last]
    return canonical_json(plain)


def older_plan(plan: Plan) -> Plan:
    """Return a plan as it is read from what an older version wrote."""
    return decode(without(plan, *LATER), Plan)
