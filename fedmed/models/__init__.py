"""From a specification to a module, its adapter and its flat vector."""

from fedmed.models.architecture import Architecture
from fedmed.models.build import build_module, record_losses, scores
from fedmed.models.folder import folder_digest, load_module, save_base
from fedmed.models.lora import attach_adapter, enter_round, frozen_factors
from fedmed.models.reading import require_readable
from fedmed.models.vector import Layout, state_digest

__all__ = [
    "Architecture",
    "Layout",
    "attach_adapter",
    "build_module",
    "enter_round",
    "folder_digest",
    "frozen_factors",
    "load_module",
    "record_losses",
    "require_readable",
    "save_base",
    "scores",
    "state_digest",
]
