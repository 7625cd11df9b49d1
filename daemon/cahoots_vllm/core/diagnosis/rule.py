"""What a row of the table is: a wording, what it means, and what to do about it."""

import re
from dataclasses import dataclass

from cahoots_vllm.core.diagnosis.causes import Cause, Trait
from cahoots_vllm.core.diagnosis.transcript import Statement


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. `says` is searched in "Name: message", `within` in the frames' "file.py:function".

    `is_weak`: said of something that was tried again; counts only where nothing else is said.
    """

    cause: Cause
    says: re.Pattern[str]
    remedy: str
    trait: Trait = Trait.NONE
    within: re.Pattern[str] | None = None
    is_retryable: bool = False
    is_weak: bool = False

    def matches(self, statement: Statement) -> bool:
        """Whether the statement is meant by this row."""
        if not self.says.search(statement.text):
            return False
        return self.within is None or self.within.search(" ".join(statement.frames)) is not None


def rule(
    cause: Cause,
    says: str,
    remedy: str,
    *,
    trait: Trait = Trait.NONE,
    within: str | None = None,
    retry: bool = False,
    weak: bool = False,
) -> Rule:
    """Return a row; `says` and `within` are regular expressions."""
    return Rule(
        cause,
        re.compile(says),
        remedy,
        trait,
        re.compile(within) if within else None,
        is_retryable=retry,
        is_weak=weak,
    )
