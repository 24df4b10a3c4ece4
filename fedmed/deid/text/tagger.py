"""A token-classification model from a local folder as a further voice.

Why it exists: a model finds names that no context announces. Which model is the site's choice: any
folder that `transformers` wrote for token classification, with a fast tokenizer.

Rules:
    * Only a local folder, only safetensors, no code from the folder: a pickle or remote code could read the notes.
    * Its labels are mapped by name (PER, LOC, ORG, DATE …); a model none of whose labels we know is refused.
    * Names that the rules know to be common words or eponyms are dropped; the union with the rules is made later.

What it does not do: train (see `training`) or decide alone.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from transformers import AutoModelForTokenClassification, AutoTokenizer
from transformers.utils import logging as _logging

from fedmed.deid.text import lexicon_zh
from fedmed.deid.text.lexicon_en import CLINICAL_NOUNS, EPONYMS, NOT_NAMES
from fedmed.deid.text.spans import KINDS, Kind, Span
from fedmed.errors import ModelError

reporting: Any = _logging  # transformers leaves its functions untyped

STRIDE = 32
BATCH = 16

_KIND_OF_LABEL: Mapping[str, Kind] = {kind: kind for kind in KINDS} | {
    "PER": "NAME", "PERSON": "NAME", "PATIENT": "NAME", "DOCTOR": "NAME", "STAFF": "NAME", "HCW": "NAME",
    "USERNAME": "ID",
    "LOC": "ADDRESS", "GPE": "ADDRESS", "LOCATION": "ADDRESS", "STREET": "ADDRESS", "CITY": "ADDRESS", "ZIP": "ADDRESS",
    "LOCATION-OTHER": "ADDRESS", "COUNTRY": "ADDRESS", "STATE": "ADDRESS", "ORG": "HOSPITAL", "FAC": "HOSPITAL",
    "ORGANIZATION": "HOSPITAL", "VENDOR": "HOSPITAL", "HOSP": "HOSPITAL", "PATORG": "HOSPITAL", "TIME": "DATE",
    "IDNUM": "ID", "SSN": "ID", "MEDICALRECORD": "RECORD", "MRN": "RECORD", "TELEPHONE": "PHONE", "FAX": "PHONE",
    "CONTACT": "PHONE", "IPADDR": "URL",
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z]+")


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from drawing progress bars and warnings on standard error for the block."""
    shown, level = reporting.is_progress_bar_enabled(), reporting.get_verbosity()
    reporting.disable_progress_bar()
    reporting.set_verbosity_error()
    try:
        yield
    finally:
        reporting.set_verbosity(level)
        if shown:
            reporting.enable_progress_bar()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread for the block: notes are short, and threads that wait for each other cost more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Tagger:
    """A loaded model; `find` answers in spans."""

    def __init__(self, *, model: Any, tokenizer: Any, kinds: Mapping[int, Kind], window: int) -> None:
        self._model, self._tokenizer, self._kinds, self._window = model, tokenizer, dict(kinds), window

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Return the tagger of a local folder, on the CPU.

        Raises:
            ModelError: The folder is missing, holds no safetensors, no fast tokenizer, or no label that we know.
        """
        path = Path(folder)
        if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
            raise ModelError(
                f"tagger {path.name}: expected a folder with config.json and safetensors, got none; save the model "
                f"with save_pretrained"
            )
        try:
            with quietly():
                tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
                model, loading = AutoModelForTokenClassification.from_pretrained(
                    path, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
                )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"tagger {path.name}: expected a token-classification model, got {type(error).__name__}; check the "
                f"folder"
            ) from error
        if loading["missing_keys"]:
            raise ModelError(
                f"tagger {path.name}: expected all weights, {len(loading['missing_keys'])} are missing; train it"
            )
        if not tokenizer.is_fast:
            raise ModelError(f"tagger {path.name}: expected a fast tokenizer, which knows where tokens are; convert it")
        labels = {int(index): _kind(label) for index, label in model.config.id2label.items()}
        kinds = {index: kind for index, kind in labels.items() if kind is not None}
        if not kinds:
            raise ModelError(
                f"tagger {path.name}: expected labels such as PER, LOC or {KINDS[0]}, got none that we know"
            )
        limit = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512), 512)
        return cls(model=model.eval(), tokenizer=tokenizer, kinds=kinds, window=int(limit))

    def find(self, view: str) -> list[Span]:
        """Return the spans that the model tags in the view of a note, of any length."""
        if not view.strip():
            return []
        encoded = self._tokenizer(
            view, truncation=True, max_length=self._window, stride=min(STRIDE, self._window // 4),
            return_overflowing_tokens=True, return_offsets_mapping=True, return_special_tokens_mask=True,
            padding=True, return_tensors="pt",
        )  # fmt: skip
        spans: list[Span] = []
        for at in range(0, len(encoded["input_ids"]), BATCH):
            part = {name: encoded[name][at : at + BATCH] for name in ("input_ids", "attention_mask")}
            with torch.inference_mode(), one_thread():
                best = self._model(**part).logits.argmax(-1).tolist()
            offsets, special = (
                encoded["offset_mapping"][at : at + BATCH].tolist(),
                encoded["special_tokens_mask"][at : at + BATCH].tolist(),
            )
            for labels, where, mask in zip(best, offsets, special, strict=True):
                spans += self._spans(view, labels, where, mask)
        return spans

    def _spans(
        self, view: str, labels: Sequence[int], where: Sequence[Sequence[int]], mask: Sequence[int]
    ) -> Iterator[Span]:
        tagged = [
            (self._kinds.get(label), start, end)
            for label, (start, end), special in zip(labels, where, mask, strict=True)
            if not special and end > start
        ]
        for kind, run in groupby(tagged, key=lambda token: token[0]):
            if kind is None:
                continue
            for start, end in _joined(view, [(start, end) for _, start, end in run]):
                if not (kind in {"NAME", "HOSPITAL", "ADDRESS"} and _is_common(view[start:end])):
                    yield Span(start=start, end=end, kind=kind)


def _kind(label: str) -> Kind | None:
    bare = re.sub(r"^[BIESLUM][-_]|[-_][BIESLUM]$", "", label).upper()
    return _KIND_OF_LABEL.get(bare)


def _joined(view: str, tokens: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join tokens of one kind that only white space or a hyphen separates, and take words whole."""
    start, end = tokens[0]
    for following, last in tokens[1:]:
        if view[end:following].strip(" -'.,·"):
            yield _whole(view, start, end)
            start = following
        end = last
    yield _whole(view, start, end)


def _whole(view: str, start: int, end: int) -> tuple[int, int]:
    while (
        start
        and view[start - 1].isascii()
        and view[start - 1].isalnum()
        and view[start].isascii()
        and view[start].isalnum()
    ):
        start -= 1
    while (
        end < len(view)
        and view[end].isascii()
        and view[end].isalnum()
        and view[end - 1].isascii()
        and view[end - 1].isalnum()
    ):
        end += 1
    return start, end


def _is_common(text: str) -> bool:
    """Say whether a tagged name is a word that names nobody: 黄疸, 高血压, Parkinson, Left."""
    words = [word.lower() for word in _WORD.findall(text)]
    if words:
        return all(word in NOT_NAMES or word in EPONYMS or word in CLINICAL_NOUNS for word in words)
    if len(text) < 2:
        return True
    return text[1] in lexicon_zh.NOT_AFTER.get(text[0], "") and len(text) <= 4 and not set(text[1:]) <= lexicon_zh.GIVEN
