"""Shortcuts change nothing: a note is cleaned the same with every one of them taken out."""

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.deid.text import (
    NoteCleaner,
    TextOptions,
    ages,
    contexts_en,
    dates,
    identifiers,
    labels,
    layout,
    name_shape_en,
    names_en,
    names_zh,
    places_en,
    places_zh,
    subjects_en,
)
from fedmed.deid.text.patterns import PlacedSearch, WordSearch
from fedmed.deid.text.spans import FILLER
from fedmed_sim.phantoms.notes import draw_notes

MODULES = (ages, contexts_en, dates, identifiers, labels, layout, name_shape_en, names_en, names_zh, places_en,
           places_zh, subjects_en)  # fmt: skip
SEARCHES = {
    f"{module.__name__.rpartition('.')[2]}.{name}": search
    for module in MODULES
    for name, search in vars(module).items()
    if isinstance(search, (PlacedSearch, WordSearch))
}
FRAGMENTS = (
    *" \n\t|:,.;-/()+=#'_@*019éİſ\u212a~至，。·",
    *("  ", ". ", ", ", " - ", ": ", FILLER, FILLER * 3, "12", "92", "100", "139", "1999", "2021", "43001", "123456"),
    *("2021-07-09", "7/9", "20210709", "2021 - 22", "+86 13912345678", "(555) 123-4567"),
    *("(0571)12345678", "1(2", "(+86)"),
    *("010-1234567", "010 12345678", "1.2.3", "10.0.0.12", "a:b:c", "::1", "fe80::1:2", "aa-bb-cc-dd-ee-ff", "ext. 12"),
    *("dr", "mr", "mrs", "sister", "patient", "pt", "next of kin", "wife", "named", "seen by", "with", "and", "denies"),
    *("was told", "lives in", "zip code", "address", "surgeon", "cc", "s", "may", "jan", "march", "in", "since", "of"),
    *("co-surgeon", "mother's name", "labelled", "fiancée", "health care proxy", "dictated by", "home address"),
    *("Dr.", "Jane", "Roe", "O'Neil", "van der", "DE LA", "al-", "ST.", "J."),
    *("MD", "RN", "Jr", "A.", "Foley", "catheter"),
    *("Boston", "MA", "OH", "Ohio", "West Virginia", "New York", "from"),
    *("Elm", "Street", "N.", "3rd", "Apt", "P.O. Box 9"),
    *("Hospital", "General", "Health Care Center", "Clinic", "of", "Mercy", "the", "&"),
    *("Medical Center", "Family Practice"),
    *("is a", "y/o", "-year-old", "yo", "M", "F", "岁", "高龄", "享年", "男", "年龄", "旬"),
    *("九十", "ninety", "hundred"),
    *("北京", "杭州市", "西湖区", "路", "号", "村", "镇", "人民医院", "患者", "姓名", "张三", "主任", "诉"),
    *("住址", "家住", "年", "月"),
    *("MRN"),
    *("ABC-", "name", "phone", "no.", "NAME", "call", "at", "身份证", "住院号", "电话", "姓 名", "(92", "age"),
)  # fmt: skip
EXAMPLES = (  # matches at the length of their patterns, one part after the other
    "code ABCD-1234567, A123456, (123456); xABCD-123456",
    "she moved from San Luis Obispo, CA 93401 to Coeur d'Alene, Idaho; in Salt Lake City,\nUtah; Boston, MA",
    "seen by Jane Roe, PhD, Kaya Law, PsyD, and Max Lee, PharmD, of Lea, MD 20601",
    "Roe, NC 27601, North Carolina, 27601-1234, WEST VIRGINIA 25301, Massachusetts, 02115",
    "at Our Lady of Mercy and Hope Children's Hospital of New Elm; St. Mary Health Care Center; A B C D E F G H Clinic",
    "Dr. Jane Roe, Jr. and Dr. Kaya Smith Jr. met. Dr. Roe III left. ROE, JANE SR. came",
    "123456 N. Elm Street, 12B 3rd Avenue, 7-9 West Oak Road Apt 4, Elm, OH 43001",
    "+86 (0)571 12345678, (+86) 13912345678, 1 (555) 123-4567, +1 (555)-(123)-4567, 400-123-4567 ext. 12",
    "6222 0000 1111 2222 333, 110105 19491231 002X, (0571)-1234 5678 转 12, 010-12345678, 123-45-6789",
    "Jane Roe is a 45-year-old. Kaya Law, a 7 y/o, J. Roe (92M) and Max Lee was our 30 yo; age 95, 101 years old",
    "浙江省杭州市西湖区文三路12号3栋502室，住址：北京市朝阳区，家住石家庄市，患者住上海",
    "2021/7/9-2021/8/1, 2021 - 22, 20210709T1200, 7至9月, 20210709120000, 1.2.3.4, 19990101",
    "surgeon  dr. jane roe|cc  kaya roe\npatient  max lee; attending physician  j roe. pt  max, roe was told",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)
KEY = bytes(range(32))


class _Everything(frozenset[str]):
    """A set of signs that stops nothing."""

    def __contains__(self, item: object) -> bool:
        return True


class _Found:
    """A sign that is always found."""

    def search(self, text: str) -> bool:
        return True


def _all_digits(view: str) -> Iterator[int]:
    return (digits.start() for digits in re.finditer("9[0-9]|1[0-3][0-9]", view))


SIGNS = (
    (contexts_en, "CREDENTIAL", re.compile(re.sub(r"\(\?=\[[^]]*]\)", "", contexts_en.CREDENTIAL.pattern, count=1))),
    (names_en, "_LABEL_LAST_WORDS", _Everything()),
    (name_shape_en, "PARTICLE_BEGINS", _Everything()),
    (name_shape_en, "_CREDENTIAL_BEGINS", _Everything()),
    (name_shape_en, "_SUFFIX_BEGINS", _Everything()),
    (name_shape_en, "_NEXT_BEGINS", _Everything()),
    (labels, "_PHONE_LINKS", ("",)),
    (contexts_en, "AGE_SIGN", _Found()),
    (identifiers, "_HOST_SIGN", _Found()),
    (ages, "_ZH_SIGN", _Found()),
    (ages, "_digits", _all_digits),
    (places_en, "_TWO_CAPITALS", _Found()),
)


@pytest.mark.parametrize("name", sorted(SEARCHES))
@given(text=TEXTS)
def test_a_search_finds_what_its_pattern_finds(name: str, text: str) -> None:
    """Each search that tries only some places has the matches of its pattern tried everywhere, one by one."""
    search = SEARCHES[name]
    for written in (text, text.lower()):
        expected = [(match.span(), match.lastgroup) for match in search.pattern.finditer(written)]
        assert [(match.span(), match.lastgroup) for match in search.finditer(written)] == expected


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_search_finds_matches_of_every_length(text: str) -> None:
    """So does each in texts that hold the longest matches, and in their small letters."""
    for name, search in SEARCHES.items():
        for written in (text, text.lower(), text.title()):
            expected = [match.span() for match in search.pattern.finditer(written)]
            assert [match.span() for match in search.finditer(written)] == expected, name


@pytest.fixture
def without_shortcuts(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what takes every shortcut out, until the test ends."""

    def take_out() -> None:
        for kind in (PlacedSearch, WordSearch):
            monkeypatch.setattr(kind, "finditer", lambda search, text: search.pattern.finditer(text))
        for module, name, stand_in in SIGNS:
            monkeypatch.setattr(module, name, stand_in)

    return take_out


def _notes() -> list[str]:
    rng = np.random.default_rng(2027)
    written = [note.text for language in ("en", "zh") for note in draw_notes(rng, language, 40)]
    mixed = ["".join(rng.choice(FRAGMENTS, size=12)) for _ in range(1500)]
    written += EXAMPLES
    return [*written, *map(str.upper, written[::5]), *map(str.lower, written[::5]), *mixed]


def test_notes_are_cleaned_the_same_without_shortcuts(without_shortcuts: Callable[[], None]) -> None:
    """Text, counts and spans of generated notes, as they are and in one case, and of heaps of fragments."""
    cleaner, notes = NoteCleaner(options=TextOptions(), key=KEY), _notes()
    fast = [cleaner.clean(note, patient="p") for note in notes]
    without_shortcuts()
    for note, cleaned in zip(notes, fast, strict=True):
        assert cleaner.clean(note, patient="p") == cleaned, note


@given(st.text(alphabet="VvDdEeLlAaBbNnİſ \n-.RoeT", max_size=9))
def test_a_particle_begins_with_its_signs(text: str) -> None:
    """Wherever a particle is, its first two letters are among the signs, or one of them isn't ASCII."""
    if contexts_en.PARTICLE.match(text):
        begins = text[:2].lower()
        assert begins in name_shape_en.PARTICLE_BEGINS or not begins.isascii()


@given(st.lists(st.sampled_from([*"|\t\n;,(>:. ab", "  ", "no.", "name", FILLER]), max_size=30).map("".join))
def test_what_stands_since_a_mark(text: str) -> None:
    """The text behind the last mark is all that has none: neither a gap, nor a full stop with a space behind it."""
    since = re.compile(r"(?:[^|\t\n;,(>:. ]|\.(?! )|(?<! ) (?! ))+ *$").search(text)
    assert layout._since_mark(text) == ("" if since is None else since[0].strip())
