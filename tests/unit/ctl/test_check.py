"""`cahootsctl check`: a row a check, what to do below it, and the outcome as exit status."""

import json

import pytest

from cahoots_vllm.control import model_check
from cahoots_vllm.ctl.check import PATIENCE_S, check_rows
from cahoots_vllm.ctl.text import Json, Tone, layout
from cahoots_vllm.host import hub_answer

from .conftest import Run
from .fake_daemon import LOOKED, FakeDaemon, answer, problem


def one(name: str, level: str, sentence: str = "said", remedy: str = "") -> Json:
    return {"name": name, "level": level, "sentence": sentence, "remedy": remedy}


def report(level: str, *checks: Json, source: str = "org/B") -> Json:
    return {"model": "org/B", "source": source, "level": level, "checks": list(checks)}


def lines(document: Json, width: int = 80) -> list[str]:
    return [line.text for line in layout(check_rows(document), width)]


def test_every_check_has_its_row_and_a_remedy_below() -> None:
    bad = one("context", "fail", "max-model-len 90,000 is more than 40,960", "set it to 40960")
    assert lines(report("fail", one("files", "ok", "on disk"), *LOOKED, bad, source="/m/b")) == [
        "model       org/B, from /m/b",
        "files       on disk",
        "memory      19.3 GiB weights + 8.0 GiB KV for 32,768 tokens + 1.0 GiB overhead",
        "            of 28.8 GiB: fits; 47,000 tokens at most",
        "quant       WARN: the weights are odd",
        "            -> take others",
        "context     FAIL: max-model-len 90,000 is more than 40,960",
        "            -> set it to 40960",
        "outcome     cannot be served like this",
    ]


def test_source_is_told_only_where_it_is_another() -> None:
    assert lines(report("ok"))[0] == "model       org/B"


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_line_is_longer_than_the_screen(width: int) -> None:
    checks = [one(name, "warn", "word " * 40, "mend " * 40) for name in ("memory", "quantization")]
    assert max(map(len, lines(report("warn", *checks), width))) <= width


@pytest.mark.parametrize(
    ("level", "code", "outcome"),
    [
        ("ok", 0, "can be served"),
        ("warn", 0, "may be served: see what is marked"),
        ("fail", 1, "cannot be served like this"),
    ],
)
def test_outcome_is_the_exit_status(
    daemon: FakeDaemon, ctl: Run, level: str, code: int, outcome: str
) -> None:
    document = report(level, one("files", level, "odd \x1b[31m"))
    daemon.on("POST /v1/check", answer(document))
    shown = ctl("check", "org/B", "--max-model-len", "4096", "--dtype", "half")
    assert (shown.code, shown.err) == (code, "")
    assert shown.out.endswith(f"outcome     {outcome}\n")
    assert "\x1b" not in shown.out
    body = {"model": "org/B", "max-model-len": 4096, "dtype": "half"}
    assert json.loads(daemon.requests[-1][1]) == body
    tones = {"ok": Tone.GOOD, "warn": Tone.WARNING, "fail": Tone.BAD}
    assert {row.tone for row in check_rows(document)} == {Tone.PLAIN, tones[level]}
    assert json.loads(ctl("check", "org/B", "--json").out) == document


def test_hub_that_is_silent_is_told_by_the_daemon_before_the_patience_ends() -> None:
    disk_s, hub_s = model_check.DISK_DEADLINE_S, hub_answer.DEADLINE_S
    assert disk_s + hub_s < PATIENCE_S


def test_refusal_is_told(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("POST /v1/check", problem("bad-request", 400, detail="odd name", remedy="ORG/NAME"))
    shown = ctl("check", "x")
    assert (shown.code, shown.out) == (1, "")
    assert "odd name" in shown.err
    assert "ORG/NAME" in shown.err
