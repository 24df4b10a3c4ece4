"""jieba as a further voice: quiet, in a private folder, and under the rules' lists."""

import sys
import tempfile
from pathlib import Path

import pytest

from fedmed.deid.text import NoteCleaner, TextOptions, jieba_voice
from fedmed.errors import UsageError

pytest.importorskip("jieba")
KEY = bytes(range(32))


def test_finds_a_name_without_context(capfd: pytest.CaptureFixture[str]) -> None:
    """A name in the middle of a sentence is found by the dictionary, and nothing is said on standard error."""
    note = "随后李小鹏复查，黄疸消退，张力正常，高血压稳定"
    rules = NoteCleaner(options=TextOptions(), key=KEY).clean(note, patient="p")
    both = NoteCleaner(options=TextOptions(jieba=True), key=KEY).clean(note, patient="p")
    assert rules.text == note
    assert both.text == note.replace("李小鹏", "[姓名]")
    assert capfd.readouterr().err == ""


def test_cache_is_private() -> None:
    """The dictionary's cache is not the predictable file in the shared temporary folder."""
    stale = Path(tempfile.gettempdir()) / "jieba.cache"
    before = stale.stat().st_mtime_ns if stale.exists() else None
    jieba_voice._segmenter.cache_clear()
    jieba_voice.find_words("下午周建国复查")
    assert (stale.stat().st_mtime_ns if stale.exists() else None) == before


def test_absent_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the option is refused with what to do."""
    jieba_voice._segmenter.cache_clear()
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(UsageError, match="pip install jieba"):
        jieba_voice.find_words("患者")
    jieba_voice._segmenter.cache_clear()
