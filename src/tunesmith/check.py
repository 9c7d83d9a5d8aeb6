"""The contract of a diagnosis: look at a stage of a run, report findings with evidence, cause and fix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from tunesmith.data.prepared import PreparedData

Stage = Literal["before", "first batch", "during", "after"]
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong or worth knowing."""

    check: str
    severity: Severity
    evidence: str
    """What was seen: rows and numbers."""
    cause: str
    fix: str
    rows: tuple[int, ...] = field(default=())
    """Row numbers in the data, counted from 1."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a check may look at."""

    data: PreparedData


class Check(ABC):
    """One diagnosis, one file."""

    name: ClassVar[str]
    stage: ClassVar[Stage]

    @abstractmethod
    def run(self, context: Context) -> list[Finding]:
        """Findings, none if all is well."""
