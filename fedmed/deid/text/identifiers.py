r"""Numbers and addresses of machines that name a person: resident IDs, phones, records, cards, plates, e-mail, URLs.

Why it exists: these have a form, and a form can be found without knowing anybody.

Rules:
    * `\b` fails between a Chinese character and a digit: every border is an explicit look-around.
    * Without a label, a number of seven digits or more is an identifier unless a unit of measure follows, and so
      is one of six that is no round thousand (as counts of platelets are). Shorter numbers need a form or a label.

What it does not do: dates (see `dates`), labels (see `labels`), names, addresses of houses.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator

from fedmed.deid.resident_ids import is_resident_id
from fedmed.deid.text.labels import MEASURED, count_digits, find_labelled
from fedmed.deid.text.patterns import PlacedSearch, digit_runs
from fedmed.deid.text.reading import CJK, Reading
from fedmed.deid.text.spans import Kind, Span


def find_identifiers(reading: Reading) -> list[Span]:
    """Return the spans of e-mail and web addresses, labelled identifiers, and numbers with an identifier's form."""
    view, lower = reading.view, reading.lower
    return [*_network(view, lower), *find_labelled(view, lower), *_numbers(reading)]


# --- machines -------------------------------------------------------------------------------------------------

_MAILBOX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+'\-]{0,63} ?$")
_MAIL_HOST = re.compile(r" ?[A-Za-z0-9\-]{1,63}(?:\.[A-Za-z0-9\-]{1,63})+")
_AT = ("@", "(at)", "[at]")
_TOP = "com|cn|org|net|edu|gov|info|io|health|hospital|uk|de|hk|tw|jp|fr|eu"
_DOT = r"(?: ?(?:[(\[] ?(?:dot|点|\.) ?[)\]]|(?<= )dot(?= )|点) ?)"  # spelled out
_SPELLED_AT = re.compile(r"@| at |[(\[{<] ?(?:at|@|艾特) ?[)\]}>] ?|艾特")
_SPELLED_HOST = re.compile(
    rf" ?[a-z0-9\-]{{1,63}}(?:(?:\.|{_DOT})[a-z0-9\-]{{1,63}}){{0,4}}?(?:\.|{_DOT})(?:{_TOP})(?![a-z0-9])"
)
_SPELLED_BOX = re.compile(rf"(?<![a-z0-9._%+\-])[a-z0-9](?:[a-z0-9._%+\-]|{_DOT}(?=[a-z0-9])){{0,63}} ?$")
_PLAIN_AT = re.compile(r" at (?=[a-z0-9\-]{1,63}\.)")
_SPELLED_DOTS = ("dot", "点")
_SPELLED_SIGN = re.compile(rf"(?:dot|点)[ )\]]{{0,2}}(?:{_TOP})(?![a-z0-9])")
_MAIL_WORD = re.compile(r"(?:e-?mail|mail|mailbox|邮箱|邮件|邮址|电邮)[a-z :=是为)]{0,12}$")
_URL = re.compile(
    r"(?:[a-z][a-z0-9+.\-]{1,9}://|www\.)[^\s<>\"'{CJK},，。、;()\[\]]+"
    r"|[a-z0-9](?<![a-z0-9].)(?:[a-z0-9\-]{0,62}\.){1,126}(?:com|cn|org|net|edu|gov|info|io|health|hospital|uk|de|hk|tw)(?![a-z0-9\-])(?:[/?#:]"
    r"[^\s<>\"'{CJK},，。、;()\[\]]*)?".replace("{CJK}", CJK)
)
_WEB_SIGNS = ("//", "www.", ".com", ".cn", ".org", ".net", ".edu", ".gov", ".info", ".io", ".h", ".uk", ".de", ".tw")
_HOST = re.compile(
    r"[0-9a-f](?<![0-9a-z.:].)(?:[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![0-9.]*[0-9])"
    r"|[0-9a-f](?:[:\-][0-9a-f]{2}){5}(?![0-9a-z])|[0-9a-f]{0,3}(?:::?[0-9a-f]{1,4}){3,7}(?![0-9a-z:]))"
)
_DIGITS = re.compile("[0-9]+")
_HOST_SIGN = re.compile(  # it begins with a mark, for marks are fewer than hexadecimal letters
    r"[.:\-](?:(?<=[0-9]\.)[0-9]{1,3}\.[0-9]|(?<=[0-9a-f]:):?[0-9a-f]{1,4}::?[0-9a-f]"
    r"|(?<=[0-9a-f]-)[0-9a-f]{2}-[0-9a-f]{2}-[0-9a-f]{2}-)"
)


def _network(view: str, lower: str) -> Iterator[Span]:
    for sign in _AT:
        at = lower.find(sign)
        while at >= 0:
            box, host = _MAILBOX.search(view, max(0, at - 65), at), _MAIL_HOST.match(view, at + len(sign))
            if box and host:
                yield Span(start=box.start(), end=host.end(), kind="EMAIL")
            at = lower.find(sign, at + 1)
    yield from _spelled_mail(lower)
    if any(sign in lower for sign in _WEB_SIGNS):
        yield from _spans(_URL, lower, "URL")
    if _HOST_SIGN.search(lower):
        yield from _spans(_HOST, lower, "URL", _is_host)


def _spelled_mail(lower: str) -> Iterator[Span]:
    """Yield addresses with "at" or "dot" in words; "seen at clinic.org" is one only if a dot, digit or label tells."""
    dots = any(dot in lower for dot in _SPELLED_DOTS) and _SPELLED_SIGN.search(lower) is not None
    for at in (_SPELLED_AT if dots else _PLAIN_AT).finditer(lower):
        host = _SPELLED_HOST.match(lower, at.end())
        spelled = host is not None and ("." not in host[0] or "dot" in host[0] or "点" in host[0])
        if host is None or (at[0] == "@" and not spelled):
            continue
        box = _SPELLED_BOX.search(lower, max(0, at.start() - _LONGEST_BOX), at.start())
        if box is None:
            continue
        told = not box[0].strip().isalpha() or _MAIL_WORD.search(lower, max(0, box.start() - 24), box.start())
        if spelled or at[0] != " at " or told:
            yield Span(start=box.start(), end=host.end(), kind="EMAIL")


_LONGEST_BOX = 66


def _is_host(match: re.Match[str]) -> bool:
    """A section 1.2.3.4 or a time 10:20:30 is no address: ask for a number above 9, or a hexadecimal letter."""
    text = match[0]
    if "." in text:
        parts = [int(part) for part in _DIGITS.findall(text)]  # a letter may stand right before them
        return max(parts) <= 255 and max(parts) > 9
    if "-" in text or (text.count(":") == 5 and "::" not in text):
        return True
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


# --- forms ----------------------------------------------------------------------------------------------------

_EXTENSION = r"(?:(?: ?(?:ext\.?|extension|x|X|转|分机)[ :.]*|-)[0-9]{1,6}(?![0-9]))?"
_US_EXTENSION = r"(?:,? ?(?:ext\.?|extension|x|X)[ :.]*[0-9]{1,6}(?![0-9]))?"
_LEAST_DIGITS, _WIDEST_GAP = 6, 3


def _before_chains(view: str) -> Iterator[int]:
    """Yield where a number can begin: with digits, or up to two marks before, where six digits stand close together."""
    runs = digit_runs(view)
    enough, digits = list[bool](), 0
    following = len(view) + _WIDEST_GAP + 1
    for start, end in reversed(runs):
        digits = end - start + (digits if following - end <= _WIDEST_GAP else 0)
        enough.append(digits >= _LEAST_DIGITS)
        following = start
    for (start, _), long in zip(runs, reversed(enough), strict=True):
        if long:
            if start and view[start - 1] in "+(":
                if start > 1 and view[start - 2] in "+(":
                    yield start - 2
                yield start - 1
            yield start


_NUMBER = PlacedSearch(
    r"[+(0-9](?<![0-9][+(0-9])(?<![0-9][.].)(?:"
    r"(?P<ssn>(?<=[0-9])[0-9]{2}(?:-[0-9]{2}-| [0-9]{2} )[0-9]{4}(?![0-9\-]))"
    r"|(?P<resident>(?<=[1-9])[0-9]{5}[ \-]?[12][0-9]{3}[ \-]?[0-9]{2}[ \-]?[0-9]{2}[ \-]?[0-9]{3}[ \-]?[0-9Xx]"
    r"(?![0-9A-Za-z]))"
    r"|(?P<mobile>(?:(?<=\+)86[ \-]?1|(?<=0)086[ \-]?1|(?<=8)6[ \-]?1|(?<=\()\+?86\)[ \-]?1|(?<=1))[3-9][0-9]"
    r"(?:[0-9]{8}|[ \-][0-9]{4}[ \-]?[0-9]{4}|[0-9][ \-][0-9]{3}[ \-][0-9]{4}|[ \-][0-9]{3}[ \-][0-9]{5}"
    r"|[0-9]{4}[ \-][0-9]{4})(?![0-9]))"
    r"|(?P<landline>(?:(?<=0)[0-9]{2,3}[ \-]?|(?<=\()0[0-9]{2,3}\)[ \-]?|(?<=\+)86[ \-]?(?:\(0\))?[0-9]{2,3}[ \-]?)"
    rf"[0-9]{{3,4}}[ \-]?[0-9]{{4}}{_EXTENSION}(?![0-9]))"
    rf"|(?P<service>(?<=[48])00[ \-][0-9]{{3,4}}[ \-]?[0-9]{{3,4}}{_EXTENSION}(?![0-9]))"
    r"|(?P<us>(?:(?:(?<=\+)1|(?<=1))[ .\-]?\(?[2-9][0-9]{2}\)?|(?<=\()[2-9][0-9]{2}\)|(?<=[2-9])[0-9]{2}(?=[ .\-/]))"
    rf"[ .\-/]{{0,2}}[0-9]{{3}}[ .\-][0-9]{{4}}{_US_EXTENSION}(?![0-9]))"
    r"|(?P<abroad>(?<=\+)[1-9][0-9]{0,2}(?:[ .\-]?\(?[0-9]{1,4}\)?){2,5}(?![0-9]))"
    r"|(?P<card>(?<=[0-9])[0-9]{3}(?:[ \-][0-9]{4}){3}(?:[ \-][0-9]{1,3})?(?![0-9]))"
    r"|(?P<long>(?<=[0-9])(?:[0-9]{6,}[Xx]?|(?![0-9]{2}000)[0-9]{5})(?![0-9]))"
    r"|(?P<spaced>(?<=[1-9])(?:[ \-]?[0-9]){13,16}[ \-]?[0-9Xx](?![0-9A-Za-z]))"
    r")",
    _before_chains,
)
_KIND_OF_FORM: dict[str, Kind] = {
    "ssn": "ID", "resident": "ID", "mobile": "PHONE", "landline": "PHONE", "service": "PHONE", "us": "PHONE",
    "abroad": "PHONE", "card": "ID", "spaced": "ID",
}  # fmt: skip
_PLATE = re.compile(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使][A-Z][·\- "
    r"]?(?=[A-Z0-9]*[0-9])[A-Z0-9]{4,6}[挂学警港澳领]?(?![A-Za-z0-9])"
)


def _before_long_runs(view: str) -> Iterator[int]:
    """Yield where a code with six digits or more can begin: at most four letters and a hyphen stand before them."""
    for start, end in digit_runs(view):
        if end - start >= _CODE_DIGITS:
            yield from range(max(0, start - 5), start)


_CODE_DIGITS = 6
_CODED = PlacedSearch(
    r"[A-Za-z](?<![A-Za-z0-9].)[A-Za-z]{0,3}-?[0-9]{6,}(?![0-9A-Za-z])|\([0-9]{6}\)", _before_long_runs
)
_GROUPED = PlacedSearch(
    r"[0-9](?<![0-9A-Za-z.\-/].)[0-9]{1,3}-[0-9]{3,4}-[0-9]{2,6}(?![0-9\-/.])",
    lambda view: [start for start, end in digit_runs(view) if view[end : end + 1] == "-"],
)
_REGISTERS = ("NCT", "CTR", "PMID", "GB", "ISBN", "ISSN")  # of trials, papers and standards, not of people


def _numbers(reading: Reading) -> Iterator[Span]:
    view = reading.view
    for match in _NUMBER.finditer(view):
        form = match.lastgroup
        if form == "long":
            yield from _long(view, match)
        elif form and _has_form(form, match[0]):
            yield Span(start=match.start(), end=match.end(), kind=_KIND_OF_FORM[form])
    if not reading.ascii:
        yield from _spans(_PLATE, view, "ID")
    yield from _spans(_GROUPED, view, "RECORD", lambda match: count_digits(match[0]) >= 7)
    for match in _CODED.finditer(view):
        if not match[0].upper().startswith(_REGISTERS):
            yield Span(start=match.start(), end=match.end(), kind="RECORD")


def _has_form(form: str, text: str) -> bool:
    """Say whether a number keeps what its form promises: spaced digits a checksum, a foreign phone its length."""
    if form == "spaced":
        return is_resident_id(re.sub("[ -]", "", text))
    return form != "abroad" or count_digits(text) >= 8


def _long(view: str, match: re.Match[str]) -> Iterator[Span]:
    if not MEASURED.match(view, match.end()) or len(match[0]) >= 15:
        kind: Kind = "ID" if 15 <= len(match[0]) <= 19 else "RECORD"
        start = match.start()
        while start and view[start - 1].isascii() and (view[start - 1].isalpha() or view[start - 1] == "-"):
            start -= 1  # letters that belong to it
        if view[start : match.end()].upper().startswith(_REGISTERS):
            return
        yield Span(start=start, end=match.end(), kind=kind)


def _spans(
    pattern: re.Pattern[str] | PlacedSearch, text: str, kind: Kind, holds: Callable[[re.Match[str]], bool] = bool
) -> Iterator[Span]:
    return (Span(start=m.start(), end=m.end(), kind=kind) for m in pattern.finditer(text) if holds(m))
