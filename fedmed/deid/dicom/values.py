"""What a value may be: dummies for each VR, tests of allow-listed values, and text cut down to known words.

Why it exists: an attribute that may pass can still hold a name. Each kind of value
has a narrow grammar, and what does not fit it does not pass.

Rules:
    * A test returns the value that may be published, or None: the caller then acts as if the value were not allowed.
    * Cleaned text keeps only words of `words.txt` and slice measures such as `3mm`, in their order.
    * A coded string is made of words of `terms.txt` and `words.txt`, with one short number at most; what is not goes.
    * A decimal or integer string holds numbers of PS3.5 6.2, none as long as a telephone or identity number.
    * Nothing here raises on strange bytes: they fail the test.

What it does not do: know attributes or options.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path

from pydicom.charset import convert_encodings, decode_bytes

WORDS_FILE = Path(__file__).with_name("words.txt")
TERMS_FILE = Path(__file__).with_name("terms.txt")
REMOVED = "REMOVED"
CODED_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""VRs whose bytes depend on the Specific Character Set (PS3.5 6.1.2.2)."""
TEXT = CODED_TEXT | {"AE", "CS", "UR"}

_SIZES = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8, "US or SS": 2}
_NUMBER = rb" *(?:[+-]?(?:[0-9]{1,10}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?)? *"
_DECIMALS = re.compile(rb"%b(?:\\%b)*" % (_NUMBER, _NUMBER))
_INTEGERS = re.compile(rb" *(?:[+-]?[0-9]{1,10})? *(?:\\ *(?:[+-]?[0-9]{1,10})? *)*")
_LONG_DECIMAL = re.compile(rb" *([+-]?[0-9]{1,6}\.[0-9]{1,40})((?:[eE][+-]?[0-9]{1,2})?) *")
_DS_BYTES, _IS_BYTES, _IS_LIMIT = 16, 12, 1 << 31
_CODED = re.compile(r"[A-Z0-9_ ]{0,16}")
_SHORT_NUMBER = re.compile(r"[0-9]{1,4}")
_DIRECTION = re.compile("[APLRHF]{1,3}")
_NUMBERED = re.compile(r"([A-Z]{2,})[0-9]{1,2}")
_CHARSETS = re.compile(
    r"(ISO_IR (6|13|58|87|100|101|109|110|126|127|138|144|148|149|159|165|166|192|203)|GB18030|GBK)?"
)
_ISO_2022 = re.compile(r"ISO 2022 IR (6|13|58|87|100|101|109|110|126|127|138|144|148|149|159|165|166|203)")
_PATTERNS = {
    "digits": re.compile(r"[0-9]{1,4}"),
    "kernel": re.compile(
        r"[A-Za-z]{1,2}\d{1,3}[a-z]{0,2}|[A-Z]{1,2}|STANDARD|BONE|BONEPLUS|LUNG|SOFT|DETAIL|EDGE|CHST"
    ),
    "unit": re.compile(r"HU|HU_MOD|US|OD|MGML|Z_EFF|ED|EDW|PCT|CNTS|BQML|K\d|GML|UM2/MS|CM2ML"),
}
_MEASURE = re.compile(r"\d{1,3}(mm|cm|ms|kv|kvp|ma|mas|hz|t)")
_MAKER_NAMES = (
    "siemens,siemens healthineers,siemens healthcare,ge,ge medical systems,ge healthcare,ge vingmed ultrasound,"
    "philips,philips medical systems,philips healthcare,canon,canon medical systems,canon me,toshiba,"
    "toshiba mec,toshiba medical systems,hitachi,hitachi medical corporation,fujifilm,fujifilm corporation,"
    "fuji photo film,agfa,carestream,carestream health,kodak,hologic,lorad,samsung,samsung medison,esaote,"
    "mindray,united imaging,uih,neusoft,shimadzu,konica minolta,elekta,varian,varian medical systems,accuray,"
    "brainlab,bruker,picker,picker international,marconi,elscint,acuson,atl,aloka,sonosite,"
    "philips intellispace,mevion,raysearch laboratories,adac,cti,vidar,swissray,planmeca,carl zeiss meditec,"
    "topcon,ziehm"
)
_MAKERS = frozenset(_MAKER_NAMES.split(","))
_CJK = "\u4e00-\u9fff"
_TOKEN = re.compile(rf"[{_CJK}]+|[0-9A-Za-z+]+(?:-[0-9A-Za-z+]+)?")
_TEXT_DELIMITERS = {0x0D, 0x0A, 0x09, 0x0C}
_CHINESE_SAFE = frozenset({"GB18030", "GBK", "ISO_IR 192"})

_DUMMIES = {
    "AE": REMOVED, "AS": "000Y", "CS": REMOVED, "DA": "19000101", "DS": "0", "DT": "19000101000000", "IS": "0",
    "LO": REMOVED, "LT": REMOVED, "PN": REMOVED, "SH": REMOVED, "ST": REMOVED, "TM": "000000", "UC": REMOVED,
    "UR": "urn:removed",    "UT": REMOVED,
}  # fmt: skip


def dummy(vr: str) -> bytes:
    r"""Return a value of `vr` that says nothing and is valid and not empty (PS3.15 E.1.1, action D).

    >>> dummy("DA"), dummy("US")
    (b'19000101', b'\x00\x00')
    """
    if text := _DUMMIES.get(vr):
        return text.encode() + b" " * (len(text) % 2)
    return bytes(_SIZES.get(vr, 2))


def texts(value: bytes, charset: tuple[str, ...] = (), *, coded: bool = False) -> list[str]:
    """Return the single values in `value` as text without padding; undecodable bytes become the replacement mark.

    Args:
        value: The encoded value.
        charset: The Specific Character Set in force.
        coded: Whether the VR depends on the character set.
    """
    if (coded and not value.isascii()) or b"\x1b" in value:
        encodings = convert_encodings(list(charset) or [""])
        text = decode_bytes(value, encodings, _TEXT_DELIMITERS | {0x5C})
    else:
        text = value.decode("ascii", "replace")
    return [part.strip(" \0\r\n\t") for part in text.split("\\")]


def passes(check: str, vr: str, value: bytes) -> bytes | None:
    r"""Return `value` as it may be published under the test `check`, or None.

    >>> passes("coded", "CS", b"ORIGINAL\\PRIMARY"), passes("coded", "CS", b"Miller")
    (b'ORIGINAL\\PRIMARY', None)
    """
    if check == "bulk":
        return value
    if check == "coded":
        return known_terms(value)
    if check == "number":
        if vr not in _SIZES:
            return _decimals(value) if vr == "DS" else _integers(value)
        fits = len(value) % _SIZES[vr] == 0
    else:
        fits = all(_TESTS[check](part) for part in texts(value))
    return value if fits else None


def known_terms(value: bytes) -> bytes | None:
    r"""Return a coded string without its values that are no terms, or None if none is left.

    Values keep their places: one that goes leaves an empty one, but at the end.

    >>> known_terms(b"ORIGINAL\\PRIMARY\\OUYANG XIUWEN"), known_terms(b"OUYANG")
    (b'ORIGINAL\\PRIMARY', None)
    """
    parts = texts(value)
    kept: list[str] = []
    numbers = 0
    for part in parts:
        found = _numbers_in_term(part)
        fits = found is not None and numbers + found <= 1
        numbers += found or 0
        kept.append(part if fits else "")
    if kept == parts:
        return value
    return "\\".join(kept).rstrip("\\").encode() or None


def known_words(value: bytes, charset: tuple[str, ...], *, limit: int) -> bytes | None:
    """Return the words of `value` that `words.txt` lists, in `charset`, or None if none is left.

    Chinese words are kept only where the character set can encode them safely (GB18030, GBK, UTF-8).
    """
    chinese = charset[0] if len(charset) == 1 and charset[0] in _CHINESE_SAFE else ""
    cleaned = []
    for text in texts(value, charset, coded=True):
        words: list[str] = []
        for token in _TOKEN.findall(unicodedata.normalize("NFKC", text)):
            words += _known(token, chinese=bool(chinese))
        cleaned.append(" ".join(words))
    result = "\\".join(cleaned)
    if not result.strip("\\"):
        return None
    encoded = result.encode({"": "ascii", "ISO_IR 192": "utf-8"}.get(chinese, "gb18030"))
    return encoded if len(result) <= limit else None


_TESTS: Mapping[str, Callable[[str], object]] = {
    "charset": lambda part: _CHARSETS.fullmatch(part) or _ISO_2022.fullmatch(part),
    "maker": lambda part: _plain(part) in _MAKERS,
    **{name: pattern.fullmatch for name, pattern in _PATTERNS.items()},
}


@lru_cache(maxsize=4096)
def _numbers_in_term(text: str) -> int | None:
    """Return how many numbers stand among the terms of a coded string, or None if it holds anything else."""
    if not _CODED.fullmatch(text):
        return None
    if text.replace(" ", "_").casefold() in _terms():
        return 0
    if not text or _DIRECTION.fullmatch(text):
        return 0
    numbers = letters = 0
    for word in re.split("[ _]+", text.strip("_")):
        numbered = _NUMBERED.fullmatch(word)
        if _SHORT_NUMBER.fullmatch(word):
            numbers += 1
        elif word.casefold() not in _terms() and not (numbered and numbered[1].casefold() in _terms()):
            return None
        letters += len(word) == 1 and word.isalpha()
    return numbers if letters <= 1 else None  # a spelled name is none of terms


def _decimals(value: bytes) -> bytes | None:
    """Return decimal strings, those that are too long cut, or None if one is no number of PS3.5 6.2."""
    parts = value.rstrip(b" \0").split(b"\\")
    if max(map(len, parts)) <= _DS_BYTES:
        return value if _DECIMALS.fullmatch(b"\\".join(parts)) else None
    numbers = [_cut(part) if len(part) > _DS_BYTES else part for part in parts]
    joined = b"\\".join(number or b"" for number in numbers)
    return joined if None not in numbers and _DECIMALS.fullmatch(joined) else None


def _cut(number: bytes) -> bytes | None:
    """Return a number with more decimals than fit without the last ones; a long whole number is none."""
    found = _LONG_DECIMAL.fullmatch(number)
    return None if found is None else bytes(found[1][: _DS_BYTES - len(found[2])] + found[2])


def _integers(value: bytes) -> bytes | None:
    text = value.rstrip(b" \0")
    parts = text.split(b"\\")
    if max(map(len, parts)) > _IS_BYTES or not _INTEGERS.fullmatch(text):
        return None
    whole = (int(part) for part in parts if part.strip())
    return value if all(-_IS_LIMIT <= number < _IS_LIMIT for number in whole) else None


def _known(token: str, *, chinese: bool) -> list[str]:
    if token.isascii():
        parts = [token] if token.casefold() in _vocabulary() else token.split("-")
        return [part for part in parts if part.casefold() in _vocabulary() or _MEASURE.fullmatch(part.casefold())]
    found: list[str] = []
    at = 0
    while chinese and at < len(token):
        size = next((n for n in range(6, 0, -1) if token[at : at + n] in _vocabulary()), 0)
        if size:
            found.append(token[at : at + size])
        at += size or 1
    return found


@cache
def _vocabulary() -> frozenset[str]:
    return _listed(WORDS_FILE)


@cache
def _terms() -> frozenset[str]:
    return _vocabulary() | {term.casefold() for term in _listed(TERMS_FILE)}


def _listed(path: Path) -> frozenset[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[.,]|\b(inc|ltd|co|corp|gmbh|ag|corporation)\b", " ", text.casefold()).split())
