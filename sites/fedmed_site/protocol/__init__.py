"""The protocol of the administrator's commands, as `control.proto` defines it, version 1.

Why it exists: server and client take their methods from one table, and that table from the definition itself.

What it does not do: import gRPC.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from google.protobuf.message import Message

from fedmed_site.protocol import control_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method: what goes in and what comes out."""

    name: str
    request: type[Message]
    reply: type[Message]


def _method(described: Any) -> Method:
    request, reply = (getattr(control_pb2, kind.name) for kind in (described.input_type, described.output_type))
    return Method(name=described.name, request=request, reply=reply)


_DESCRIBED: Final = control_pb2.DESCRIPTOR.services_by_name["SiteControl"]
SERVICE: Final[str] = _DESCRIBED.full_name
METHODS: Final[Mapping[str, Method]] = MappingProxyType({one.name: _method(one) for one in _DESCRIBED.methods})
"""Every method of the service, by name."""
