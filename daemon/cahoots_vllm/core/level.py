"""How much something that was looked at matters: one scale for `doctor` and `check`."""

from enum import StrEnum


class Level(StrEnum):
    """`FAIL` keeps the model from being served."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
