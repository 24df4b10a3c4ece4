"""A guess at what each column of an unknown table is, with the reason in words.

Why it exists: a hospital's export has a hundred columns, and somebody must say of each whether
it names a patient. A guess saves the typing; the decision stays with the site.

Rules:
    * A proposal changes nothing. Only a `ConfirmedTable`, made by the site, is ever used.
    * Values speak against a header, never for it: what looks like an identifier is one, whatever its column is called.
    * When nothing fits, the proposal is to drop the column.
    * A reason names the kind of evidence and shares of a sample, never a value.

What it does not do: read more than the sample, or suggest ranges and lists of values from the data.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from fedmed.deid.cells import parse_cells
from fedmed.deid.confirmed import ConfirmedColumn, Kind, Role
from fedmed.deid.headings import SAMPLE_ROWS as SAMPLED
from fedmed.deid.headings import check_headings
from fedmed.deid.hierarchies import HierarchyName
from fedmed.deid.readers import TableReader
from fedmed.deid.resident_ids import LENGTH, is_resident_id
from fedmed.errors import DataError

SAMPLE_ROWS = 20_000
_BATCH_ROWS = 5_000
_MOST_SAMPLED = 32 << 20  # characters: cells of Parquet may be as long as a file

_ALMOST_ALL = 0.9
_MOST = 0.6
_A_FEW = 0.01
_LONG_TEXT = 25
_FEW_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a column may be. `role: ignore` means dropped."""

    column: str
    role: Role
    kind: Kind
    reason: str
    hierarchy: HierarchyName | None = None


def propose(table: TableReader, *, sample_rows: int = SAMPLE_ROWS) -> tuple[Proposal, ...]:
    """Return a proposal for each column of `table`, from its header and its first rows.

    Args:
        table: An open reader; its rows are read up to the sample.
        sample_rows: How many rows to look at.

    Raises:
        DataError: Two columns have the same name, a batch cannot be read, or the first line holds values.
    """
    if len(set(table.header)) != len(table.header):
        raise DataError(f"{table.name}: two columns have the same name; expected different ones; rename one")
    cells: dict[str, list[str]] = {name: [] for name in table.header}
    rows = characters = 0
    for batch in table.batches(table.header, min(_BATCH_ROWS, sample_rows)):
        for name in table.header:
            cells[name] += batch.cells[name]
        rows += len(batch.lines)
        characters += sum(len(cell) for name in table.header for cell in batch.cells[name])
        if rows >= sample_rows or characters >= _MOST_SAMPLED:
            break
    check_headings(table.name, table.header, {name: part[:SAMPLED] for name, part in cells.items()})
    return tuple(propose_column(name, cells[name][:sample_rows]) for name in table.header)


def propose_column(header: str, cells: Sequence[str]) -> Proposal:
    """Return a proposal for one column.

    >>> propose_column("联系电话", []).role, propose_column("x7", ["a", "b"]).role
    ('direct-identifier', 'ignore')
    >>> propose_column("年龄", ["63", "70"]).hierarchy
    'age'
    """
    shape = _Shape.of(cells)
    by_header = _by_header(header)
    if by_header is not None and by_header.role in {"direct-identifier", "patient-key"}:
        return by_header
    identifier = _identifier(shape)
    if identifier is not None:
        return Proposal(column=header, role="direct-identifier", kind="identifier", reason=identifier)
    if by_header is not None:
        return _checked(by_header, shape)
    return _by_shape(header, shape)


def _rule(words: str, role: Role, kind: Kind, meaning: str, hierarchy: HierarchyName | None = None) -> "_HeaderRule":
    return _HeaderRule(pattern=re.compile(words), role=role, kind=kind, meaning=meaning, hierarchy=hierarchy)


@dataclass(frozen=True, slots=True, kw_only=True)
class _HeaderRule:
    pattern: re.Pattern[str]
    role: Role
    kind: Kind
    meaning: str
    hierarchy: HierarchyName | None


# Headers are matched as lower-case words with single spaces; Chinese words anywhere. The first that fits counts.
_RULES = (
    _rule(
        r"备注|说明|主诉|史|现病|病程|小结|描述|意见|印象|所见|医嘱|经过|随访记录|日志|\b(?:remarks?|notes?|comments?"
        r"|narrative|reports?|free text|text|history|complaints?|impression|findings?|description|summary|memo)\b",
        "free-text", "text", "notes",
    ),
    _rule(
        r"住院号|病案号|病历号|门诊号|登记号|患者编号|患者id|病人id|受试者编号|就诊号|\b(?:mrn|medical record"
        r"(?: no| number| num)?|(?:patient|subject|person|pat|hadm|stay|participant) ?(?:id|no|num|number|key)"
        r"|record (?:no|number|id))\b",
        "patient-key", "identifier", "a patient's number",
    ),
    _rule(
        r"身份证|护照|证件|社保|医保|军官证|驾驶证|\b(?:ssn|social security|national id|passport|licen[cs]e|insurance"
        r"|medicare|medicaid|member id|beneficiary|nhs number|id card)\b",
        "direct-identifier", "identifier", "an identity document or insurance",
    ),
    _rule(
        r"姓名|名字|联系人|家属|亲属|监护人|医师|医生|护士|主治|签名|术者|操作者|审核人|填报人|录入人|\b(?:names?|surname"
        r"|forename|physician|doctor|nurse|provider|operator|contact|kin|guardian|mother|father|spouse|attending|surgeon|initials)\b",
        "direct-identifier", "text", "a person's name",
    ),
    _rule(
        r"电话|手机|联系方式|邮箱|电子邮件|微信|传真|qq|\b(?:tele?phone|phone|tel|mobile|cell|fax|e ?mail|wechat)\b",
        "direct-identifier", "identifier", "telephone or mail",
    ),
    _rule(
        r"账号|帐号|账户|卡号|车牌|设备号|序列号|条码|照片|指纹|人脸|网址|\b(?:url|ip|mac|serial|account|acct|plate|vin|photo"
        r"|image|fingerprint|biometric|device|barcode|accession|card)\b",
        "direct-identifier", "identifier", "an account, a device or a picture",
    ),
    _rule(
        r"行政区划|区划代码|地区编码|地区代码|\bdivision code\b", "quasi-identifier", "division-cn", "a division code",
        "division-cn",
    ),
    _rule(r"\b(?:zip|zip ?code|postal ?code|postcode)\b", "quasi-identifier", "zip-us", "a ZIP code", "zip-us"),
    _rule(
        r"住址|地址|籍贯|户籍|户口|出生地|居住地|现住|省市|\b(?:address|residence|birthplace|street|district|county|city)\b",
        "quasi-identifier", "address-cn", "an address", "address-cn",
    ),
    _rule(r"年龄|岁数|\bage\b", "quasi-identifier", "number", "an age", "age"),
    _rule(
        r"性别|民族|婚姻|职业|文化程度|学历|国籍|宗教|\b(?:sex|gender|race|ethnicity|ethnic|marital|married|occupation"
        r"|education|nationality|religion|language)\b",
        "quasi-identifier", "category", "a trait that others know", "category",
    ),
    _rule(r"诊断|疾病|\b(?:icd|icd ?10|diagnos[ei]s|dx|disease)\b", "sensitive", "icd10", "a diagnosis"),
    _rule(
        r"艾滋|传染|精神|性病|基因|妊娠|流产|吸毒|酗酒|\b(?:hiv|aids|psych\w*|mental|genetic|gene|abortion|pregnan\w*|abuse"
        r"|alcohol|drug use|std)\b",
        "sensitive", "category", "a delicate finding",
    ),
    _rule(
        r"日期|时间|生日|出生|\b(?:date|time|datetime|day|dob|birth|birthday|admitted|discharged|admission|discharge)\b",
        "quasi-identifier", "date", "a date", "date",
    ),
)  # fmt: skip


def _by_header(header: str) -> Proposal | None:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", header))
    words = re.sub(r"[\W_]+", " ", words).casefold().strip()
    squeezed = words.replace(" ", "")
    for rule in _RULES:
        found = rule.pattern.search(words) or rule.pattern.search(squeezed)
        if found:
            return Proposal(
                column=header,
                role=rule.role,
                kind=rule.kind,
                hierarchy=rule.hierarchy,
                reason=f"the header says {rule.meaning} ({found[0].strip()!r})",
            )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Shares of the cells of a sample that are not empty."""

    rows: int
    resident: float
    phone: float
    mail: float
    date: float
    number: float
    whole: float
    icd10: float
    zip5: float
    address: float
    division: float
    distinct: float
    length: float

    @classmethod
    def of(cls, cells: Sequence[str]) -> "_Shape":
        text = pl.Series(cells, dtype=pl.String).str.normalize("NFKC").str.strip_chars()
        text = text.filter(text != "")
        rows = len(text)

        def share(known: pl.Series) -> float:
            return int(known.fill_null(value=False).sum()) / rows if rows else 0.0

        def readable(kind: Kind) -> float:
            facts = ConfirmedColumn(name="sample", kind=kind, role="ignore")
            return share(parse_cells(facts, text.to_list(), []).values.is_not_null())

        number = text.cast(pl.Float64, strict=False)
        digits = text.str.replace_all(r"[\s\-()]+", "")
        return cls(
            rows=rows,
            resident=share(digits.map_elements(_is_checked_id, return_dtype=pl.Boolean)),
            phone=share(text.str.contains(_PHONE)),
            mail=share(text.str.contains(r"^[^\s@]+@[^\s@]+\.[A-Za-z]{2,}$")),
            date=readable("date"),
            number=share(number.is_finite()),
            whole=share(text.str.contains(r"^\d+$")),
            icd10=readable("icd10"),
            zip5=readable("zip-us"),
            address=readable("address-cn"),
            division=readable("division-cn"),
            distinct=text.n_unique() / rows if rows else 0.0,
            length=float(text.str.len_chars().mean() or 0.0) if rows else 0.0,  # type: ignore[arg-type]
        )


_PHONE = r"^(?:(?:\+?86[- ]?)?1[3-9]\d{9}|0\d{2,3}[- ]\d{7,8}|(?:\+?1[-. ]?)?\(?\d{3}\)?[-. ]\d{3}[-. ]\d{4})$"


def _is_checked_id(text: str) -> bool:
    """Say whether `text` is a resident ID with a check character; many a number of 15 digits looks like an old one."""
    return len(text) == LENGTH and is_resident_id(text)


def _identifier(shape: _Shape) -> str | None:
    """Return why the values identify people, or None."""
    for share, meaning in (
        (shape.resident, "resident numbers with a valid check character"),
        (shape.phone, "telephone numbers"),
        (shape.mail, "mail addresses"),
    ):
        if share >= _A_FEW:
            return f"{share:.0%} of the sampled values are {meaning}"
    return None


def _checked(proposal: Proposal, shape: _Shape) -> Proposal:
    """Return the header's proposal where the values fit it, else one that drops the column."""
    if proposal.role == "free-text" or shape.rows == 0:
        return proposal
    if proposal.column and proposal.kind == "icd10" and shape.icd10 < _ALMOST_ALL:
        text = f"{proposal.reason}, but the values are words, not ICD-10 codes"
        return replace(proposal, role="free-text", kind="text", reason=text)
    fits: Mapping[str, Callable[[_Shape], bool]] = {
        "number": lambda s: s.number >= _ALMOST_ALL,
        "date": lambda s: s.date >= _ALMOST_ALL,
        "zip-us": lambda s: s.zip5 >= _ALMOST_ALL,
        "address-cn": lambda s: s.address >= _MOST,
        "division-cn": lambda s: s.division >= _ALMOST_ALL,
        "category": lambda s: s.distinct <= _MOST or s.rows < _FEW_ROWS,
    }
    fit = fits.get(proposal.kind)
    if fit is None or fit(shape):
        return proposal
    if proposal.kind == "address-cn":
        reason = f"{proposal.reason}, and the values are not Chinese addresses that can be read"
        return replace(proposal, role="direct-identifier", kind="text", hierarchy=None, reason=reason)
    reason = f"{proposal.reason}, but most values are something else; dropped unless the site says otherwise"
    return replace(proposal, role="ignore", kind="text", hierarchy=None, reason=reason)


def _by_shape(header: str, shape: _Shape) -> Proposal:
    """Return what the values alone suggest: the first line that holds."""
    unknown, drop = "the header is not known", "dropped unless the site says otherwise"
    long_number = shape.length >= 7 or (shape.distinct >= _ALMOST_ALL and shape.length >= 4)
    many = shape.distinct >= _MOST and shape.rows >= _FEW_ROWS
    lines: tuple[tuple[bool, Role, Kind, str, HierarchyName | None], ...] = (
        (shape.rows == 0, "ignore", "text", f"{unknown} and the sample is empty; {drop}", None),
        (
            shape.date >= _ALMOST_ALL and shape.length >= 8,
            "quasi-identifier", "date", f"{shape.date:.0%} of the sampled values are dates", "date",
        ),
        (
            shape.address >= _ALMOST_ALL,
            "quasi-identifier", "address-cn", f"{shape.address:.0%} of the sampled values are addresses", "address-cn",
        ),
        (
            shape.whole >= _ALMOST_ALL and long_number,
            "direct-identifier", "identifier", f"{unknown} and the values are long or unique numbers", None,
        ),
        (
            shape.number >= _ALMOST_ALL,
            "feature", "number", f"{unknown}; {shape.number:.0%} of the sampled values are numbers", None,
        ),
        (
            shape.length >= _LONG_TEXT,
            "free-text", "text", f"{unknown} and the values have {shape.length:.0f} characters on average", None,
        ),
        (
            shape.icd10 >= _ALMOST_ALL,
            "sensitive", "icd10", f"{shape.icd10:.0%} of the sampled values are ICD-10 codes", None,
        ),
        (
            many,
            "direct-identifier", "text", f"{unknown} and {shape.distinct:.0%} of the values differ: names or numbers",
            None,
        ),
        (True, "ignore", "text", f"{unknown} and the values are words; {drop}", None),
    )  # fmt: skip
    _, role, kind, reason, hierarchy = next(line for line in lines if line[0])
    return Proposal(column=header, role=role, kind=kind, reason=reason, hierarchy=hierarchy)
