from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SiteStatus(_message.Message):
    __slots__ = ("site", "version", "agent_since", "node_state", "node_since", "coordinator", "certificate_not_after", "current", "last_exchange", "tasks_done", "tasks_refused", "paused")
    SITE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_SINCE_FIELD_NUMBER: _ClassVar[int]
    NODE_STATE_FIELD_NUMBER: _ClassVar[int]
    NODE_SINCE_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    LAST_EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    TASKS_DONE_FIELD_NUMBER: _ClassVar[int]
    TASKS_REFUSED_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    site: str
    version: str
    agent_since: str
    node_state: str
    node_since: str
    coordinator: str
    certificate_not_after: str
    current: Current
    last_exchange: Exchange
    tasks_done: int
    tasks_refused: int
    paused: bool
    def __init__(self, site: _Optional[str] = ..., version: _Optional[str] = ..., agent_since: _Optional[str] = ..., node_state: _Optional[str] = ..., node_since: _Optional[str] = ..., coordinator: _Optional[str] = ..., certificate_not_after: _Optional[str] = ..., current: _Optional[_Union[Current, _Mapping]] = ..., last_exchange: _Optional[_Union[Exchange, _Mapping]] = ..., tasks_done: _Optional[int] = ..., tasks_refused: _Optional[int] = ..., paused: bool = ...) -> None: ...

class Current(_message.Message):
    __slots__ = ("study", "action", "round", "since")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    study: str
    action: str
    round: int
    since: str
    def __init__(self, study: _Optional[str] = ..., action: _Optional[str] = ..., round: _Optional[int] = ..., since: _Optional[str] = ...) -> None: ...

class Exchange(_message.Message):
    __slots__ = ("at", "outcome")
    AT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    at: str
    outcome: str
    def __init__(self, at: _Optional[str] = ..., outcome: _Optional[str] = ...) -> None: ...

class StudiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StudyList(_message.Message):
    __slots__ = ("studies",)
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[Study]
    def __init__(self, studies: _Optional[_Iterable[_Union[Study, _Mapping]]] = ...) -> None: ...

class Study(_message.Message):
    __slots__ = ("digest", "study", "state", "seen", "decided", "by", "rounds", "epsilon", "delta", "dataset", "target", "model_family", "trust_model", "base_digest", "version")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    MODEL_FAMILY_FIELD_NUMBER: _ClassVar[int]
    TRUST_MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    digest: str
    study: str
    state: str
    seen: str
    decided: str
    by: str
    rounds: int
    epsilon: float
    delta: float
    dataset: str
    target: str
    model_family: str
    trust_model: str
    base_digest: str
    version: int
    def __init__(self, digest: _Optional[str] = ..., study: _Optional[str] = ..., state: _Optional[str] = ..., seen: _Optional[str] = ..., decided: _Optional[str] = ..., by: _Optional[str] = ..., rounds: _Optional[int] = ..., epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., dataset: _Optional[str] = ..., target: _Optional[str] = ..., model_family: _Optional[str] = ..., trust_model: _Optional[str] = ..., base_digest: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class DecideRequest(_message.Message):
    __slots__ = ("study", "decision")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    study: str
    decision: str
    def __init__(self, study: _Optional[str] = ..., decision: _Optional[str] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("until",)
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    until: str
    def __init__(self, until: _Optional[str] = ...) -> None: ...

class PauseReply(_message.Message):
    __slots__ = ("since", "by", "until", "version")
    SINCE_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    since: str
    by: str
    until: str
    version: int
    def __init__(self, since: _Optional[str] = ..., by: _Optional[str] = ..., until: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BudgetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BudgetReply(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[BudgetLine]
    def __init__(self, lines: _Optional[_Iterable[_Union[BudgetLine, _Mapping]]] = ...) -> None: ...

class BudgetLine(_message.Message):
    __slots__ = ("dataset", "spent_epsilon", "left_epsilon", "cap_epsilon", "delta")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SPENT_EPSILON_FIELD_NUMBER: _ClassVar[int]
    LEFT_EPSILON_FIELD_NUMBER: _ClassVar[int]
    CAP_EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    spent_epsilon: float
    left_epsilon: float
    cap_epsilon: float
    delta: float
    def __init__(self, dataset: _Optional[str] = ..., spent_epsilon: _Optional[float] = ..., left_epsilon: _Optional[float] = ..., cap_epsilon: _Optional[float] = ..., delta: _Optional[float] = ...) -> None: ...

class AuditRequest(_message.Message):
    __slots__ = ("last",)
    LAST_FIELD_NUMBER: _ClassVar[int]
    last: int
    def __init__(self, last: _Optional[int] = ...) -> None: ...

class AuditReply(_message.Message):
    __slots__ = ("total", "entries")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    total: int
    entries: _containers.RepeatedCompositeFieldContainer[AuditEntry]
    def __init__(self, total: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[AuditEntry, _Mapping]]] = ...) -> None: ...

class AuditEntry(_message.Message):
    __slots__ = ("index", "kind", "body")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    index: int
    kind: str
    body: str
    def __init__(self, index: _Optional[int] = ..., kind: _Optional[str] = ..., body: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StopReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
