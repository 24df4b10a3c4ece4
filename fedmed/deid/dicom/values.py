"""What a value may be: dummies for each VR, tests of allow-listed values, and text cut down to known words.

Why it exists: an attribute that may pass can still hold a name. Each kind of value
has a narrow grammar, and what does not fit it does not pass.

Rules:
    * A test returns the value that may be published, or None: the caller then acts as if the value were not allowed.
    * Cleaned text keeps only words of `words.txt` and slice measures such as `3mm`, in their order.
    * Nothing here raises on strange bytes: they fail the test.

What it does not do: know attributes or options.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from pydicom.charset import convert_encodings, decode_bytes

WORDS_FILE = Path(__file__).with_name("words.txt")
REMOVED = "REMOVED"
CODED_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""VRs whose bytes depend on the Specific Character Set (PS3.5 6.1.2.2)."""
TEXT = CODED_TEXT | {"AE", "CS", "UR"}

_SIZES = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8, "US or SS": 2}
_DECIMAL = re.compile(rb"[0-9+\-.eE \\]*\0?")
_CODED = re.compile(r"[A-Z0-9_ ]{0,16}")
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
    if check == "number":
        fits = len(value) % _SIZES[vr] == 0 if vr in _SIZES else _DECIMAL.fullmatch(value) is not None
    else:
        fits = all(_TESTS[check](part) for part in texts(value))
    return value if fits else None


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
    "coded": _CODED.fullmatch,
    "charset": lambda part: _CHARSETS.fullmatch(part) or _ISO_2022.fullmatch(part),
    "maker": lambda part: _plain(part) in _MAKERS,
    **{name: pattern.fullmatch for name, pattern in _PATTERNS.items()},
}


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
    lines = WORDS_FILE.read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[.,]|\b(inc|ltd|co|corp|gmbh|ag|corporation)\b", " ", text.casefold()).split())
