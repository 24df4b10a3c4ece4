"""De-identification of clinical notes in English and Chinese: rules, optional voices, placeholders, evaluation."""

from fedmed.deid.text.options import TextOptions
from fedmed.deid.text.pipeline import CleanedNote, NoteCleaner, clean_note
from fedmed.deid.text.spans import KINDS, Kind, Span

__all__ = ["KINDS", "CleanedNote", "Kind", "NoteCleaner", "Span", "TextOptions", "clean_note"]
