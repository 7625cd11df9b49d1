"""One finding of the doctor: what was looked at, how it is, what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from cahoots_vllm.core.level import Level


class Group(StrEnum):
    """What a check is about; the order is the one shown."""

    SERVICE = "service"
    SETTINGS = "settings"
    ENDPOINT = "endpoint"
    GPU = "gpu"
    ENGINE = "engine"
    MEMORY = "memory and disk"
    HUB = "hub"
    SPEED = "speed"


@dataclass(frozen=True, slots=True)
class Finding:
    """`sentence` is lower case, without a full stop; `remedy` is what to do, "" when ok."""

    check: str
    group: Group
    level: Level
    sentence: str
    remedy: str = ""


Findings = tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Judge:
    """Makes the findings of one check, so that no judgement repeats its name."""

    check: str
    group: Group

    def ok(self, sentence: str) -> Finding:
        """Return that all is well."""
        return Finding(self.check, self.group, Level.OK, sentence)

    def warn(self, sentence: str, remedy: str) -> Finding:
        """Return what makes the model slow, late or exposed."""
        return Finding(self.check, self.group, Level.WARN, sentence, remedy)

    def fail(self, sentence: str, remedy: str) -> Finding:
        """Return what keeps the model from being served."""
        return Finding(self.check, self.group, Level.FAIL, sentence, remedy)

    def bad(self, sentence: str, remedy: str, *, is_fatal: bool) -> Finding:
        """Return a fail or a warn."""
        return self.fail(sentence, remedy) if is_fatal else self.warn(sentence, remedy)


def or_ok(found: Iterable[Finding], fine: Finding) -> Findings:
    """Return what was found, else that all is well."""
    return tuple(found) or (fine,)
