"""What the functions give."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

#: A report as the command line prints it with ``--json``; the schemas are in the documentation's reference.
Report = Dict[str, Any]


def _known(cls: type, values: Mapping[str, Any]) -> Dict[str, Any]:
    """Those of ``values`` that ``cls`` has a field for: a newer native module may say more."""
    names = {field.name for field in dataclasses.fields(cls)}
    return {name: value for name, value in values.items() if name in names}


@dataclasses.dataclass(frozen=True)
class Notice:
    """What is said of a piece of work while it goes on."""

    #: ``progress``, ``note``, ``warning``, or ``made`` for a model that is finished (``text`` is its path).
    kind: str
    text: str
    #: What is being done, of ``progress``: ``quantizing``.
    stage: str = ""
    #: How much of the stage is done, from 0 to 1.
    fraction: float = 0.0


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A model that was made."""

    path: Path
    format: str
    method: str
    #: The plugin whose quantizer made it.
    backend: str
    source_bytes: int
    output_bytes: int
    #: Source bytes by output bytes.
    ratio: float
    elapsed_ms: float
    #: How good it is; none if that was not measured, and ``not_validated`` says why.
    validation: Optional[Report] = None
    not_validated: str = ""
    #: What was tried to find the method; none where it was named.
    search: Optional[Report] = None
    #: Everything that the command line prints with ``--json``.
    report: Report = dataclasses.field(default_factory=dict, repr=False)

    @property
    def passed(self) -> Optional[bool]:
        """Whether it is good enough; none if it was not measured."""
        verdict = (self.validation or {}).get("verdict")
        return None if verdict is None else bool(verdict["passed"])

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def _of(cls, values: Report) -> Quantized:
        return cls(**{**_known(cls, values), "path": Path(values["path"]), "report": values})


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model generated, and how fast."""

    text: str
    tokens: List[int]
    #: ``stop``, ``length`` (``max_tokens`` or the context's end), ``cancelled``, or another word of a newer backend's.
    finish_reason: str
    prompt_tokens: int
    #: Of those, found in the session's cache.
    cached_tokens: int
    generated_tokens: int
    time_to_first_token_ms: float
    tokens_per_second: float
    prompt_tokens_per_second: float
    total_ms: float

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        return format(self.text, spec)

    @classmethod
    def _of(cls, values: Report) -> Answer:
        return cls(**_known(cls, values))


@dataclasses.dataclass(frozen=True)
class MemoryUsage:
    """What a loaded model holds, in bytes; zeroes mean unknown."""

    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    device_total_bytes: int
    #: The most that the model's process has held so far.
    process_peak_bytes: int

    @classmethod
    def _of(cls, values: Report) -> MemoryUsage:
        return cls(**_known(cls, values))


@dataclasses.dataclass(frozen=True)
class Backend:
    """A plugin that was found, and what became of it."""

    name: str
    #: ``available``, ``quantize_only``, ``unavailable``, ``shadowed``, ``refused`` or ``failed``.
    status: str
    #: 1 for the backend that runs by default; none for those that cannot run.
    rank: Optional[int]
    version: Optional[str]
    devices: List[str]
    formats: List[str]
    #: Why it is not available, and what to do.
    reason: str
    remedy: str
    path: Path

    @property
    def available(self) -> bool:
        """Whether it runs models here."""
        return self.status == "available"

    @classmethod
    def _of(cls, values: Report) -> Backend:
        return cls(**{**_known(cls, values), "path": Path(values["path"])})


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """A model that was made and is kept."""

    #: What to call it: ``pajamas.load(name)``.
    name: str
    file: str
    format: str
    method: str
    #: Path or id of what it was made from.
    source: str
    size_bytes: int
    path: Path
    commit: Optional[str] = None
    validation: Optional[Report] = None

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def _of(cls, values: Report) -> ModelRecord:
        file = values["file"]
        extension = "." + values["format"]
        name = file[: -len(extension)] if file.endswith(extension) else file
        return cls(**{**_known(cls, values), "name": name, "path": Path(values["path"])})
