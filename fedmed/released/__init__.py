"""What leaves a finished study as a model: its facts, its card, and the forms that others load."""

from fedmed.released.card import model_card
from fedmed.released.facts import StudyResult
from fedmed.released.folder import Released, open_released, tower_kinds

__all__ = ["Released", "StudyResult", "model_card", "open_released", "tower_kinds"]
