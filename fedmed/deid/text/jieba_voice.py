"""The segmenter jieba as a further voice for Chinese: names, places and organisations by its own dictionary.

Why it exists: it finds names that no context announces. It also takes common words for names, so it is
opt-in, and its answers pass the same lists as the rules' answers.

Rules:
    * jieba is imported when first used, says nothing on standard error, and keeps its cache in a folder of
      its own that is removed: its default, /tmp/jieba.cache, is a file that anybody could have written.

What it does not do: find identifiers or dates.
"""

import importlib
import logging
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fedmed.deid.text import lexicon_zh as words
from fedmed.deid.text.reading import CJK
from fedmed.deid.text.spans import Kind, Span
from fedmed.errors import UsageError

_CJK = re.compile(f"[{CJK}]")
_HOSPITAL = re.compile("医院|卫生院|诊所|医学中心|保健院")
_PROVINCE = re.compile(".{2,3}(?:省|自治区)|中国|.{1,3}国|.+洲")


def find_words(view: str) -> list[Span]:
    """Return what jieba takes for names (nr), places (ns) and hospitals (nt).

    Raises:
        UsageError: jieba is not installed.
    """
    return list(_spans(view)) if _CJK.search(view) else []


def _spans(view: str) -> Iterator[Span]:
    at = 0
    for token in _segmenter().cut(view):
        word, flag = str(token.word), str(token.flag)
        kind = _kind(word, flag)
        if kind:
            yield Span(start=at, end=at + len(word), kind=kind)
        at += len(word)


def _kind(word: str, flag: str) -> Kind | None:
    if len(word) < 2 or not _CJK.fullmatch(word[0]):
        return None
    if flag.startswith("nr") and _is_name(word):
        return "NAME"
    if flag == "ns" and len(word) >= 3 and word[-1] in "市县区镇乡村州" and not _PROVINCE.fullmatch(word):
        return "ADDRESS"
    return "HOSPITAL" if flag == "nt" and _HOSPITAL.search(word) else None


def _is_name(word: str) -> bool:
    if word[:2] in words.COMPOUND_SURNAMES:
        return len(word) > 2
    common = word[1] in words.NOT_AFTER.get(word[0], "") or any(character in words.NOT_GIVEN for character in word[1:])
    return word[0] in words.STRONG_SURNAMES and len(word) <= 3 and not common


@cache
def _segmenter() -> Any:
    try:
        jieba, posseg = importlib.import_module("jieba"), importlib.import_module("jieba.posseg")
    except ImportError as error:
        raise UsageError(
            "the option jieba needs the package jieba, which is not installed; pip install jieba"
        ) from error
    jieba.setLogLevel(logging.CRITICAL)
    tokenizer = jieba.Tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.tmp_dir = folder
        tokenizer.cache_file = str(Path(folder) / "cache")
        tokenizer.initialize()
    return posseg.POSTokenizer(tokenizer)
