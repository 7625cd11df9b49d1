"""What a row of the table is: a wording, what it means, and what to do about it."""

import re
from dataclasses import dataclass

from cahoots_vllm.core.diagnosis.causes import Cause, Trait
from cahoots_vllm.core.diagnosis.transcript import Statement

_INNERMOST = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. `says` is searched in "Name: message", `within` in the frames' "file.py:function".

    `raised_in`: like `within`, but the innermost frames only. `unless`: what the message must not
    say. `is_weak`: said of something that was tried again, or by a survivor; counts only where
    nothing else is said.
    """

    cause: Cause
    says: re.Pattern[str]
    remedy: str
    trait: Trait = Trait.NONE
    within: re.Pattern[str] | None = None
    raised_in: re.Pattern[str] | None = None
    unless: re.Pattern[str] | None = None
    is_startups: bool = False
    is_retryable: bool = False
    is_weak: bool = False

    def matches(self, statement: Statement) -> bool:
        """Whether the statement is meant by this row."""
        if not self.says.search(statement.text) or (self.is_startups and statement.is_serving):
            return False
        if self.unless is not None and self.unless.search(statement.text):
            return False
        if self.raised_in and not self.raised_in.search(" ".join(statement.frames[-_INNERMOST:])):
            return False
        return self.within is None or self.within.search(" ".join(statement.frames)) is not None


def rule(
    cause: Cause,
    says: str,
    remedy: str,
    *,
    trait: Trait = Trait.NONE,
    within: str | None = None,
    raised_in: str | None = None,
    unless: str | None = None,
    startup: bool = False,
    retry: bool = False,
    weak: bool = False,
) -> Rule:
    """Return a row; `says`, `within`, `raised_in` and `unless` are regular expressions."""
    return Rule(
        cause,
        re.compile(says),
        remedy,
        trait,
        _compiled(within),
        _compiled(raised_in),
        _compiled(unless),
        is_startups=startup,
        is_retryable=retry,
        is_weak=weak,
    )


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    return re.compile(pattern) if pattern else None
