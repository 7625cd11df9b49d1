"""The doctor's answer as text: problems first, remedies below them, one line in all at the end."""

from cahoots_vllm.ctl.doctor import doctor_lines
from cahoots_vllm.ctl.text import Json, Tone

from .conftest import Run
from .fake_daemon import FakeDaemon, answer, problem


def finding(level: str, group: str, check: str, sentence: str, remedy: str = "") -> Json:
    return {
        "level": level,
        "group": group,
        "check": check,
        "sentence": sentence,
        "remedy": remedy,
    }


WELL: Json = {
    "healthy": True,
    "examined_by": "daemon",
    "user": "cahoots-vllm",
    "seconds": 0.5,
    "findings": [
        finding("ok", "service", "unit", "active"),
        finding("ok", "service", "worker", "ready"),
        finding("ok", "gpu", "driver", "NVIDIA driver 580"),
    ],
}
ILL: Json = WELL | {
    "healthy": False,
    "findings": [
        finding("warn", "settings", "env-file", "everybody may read it", "chmod o-rwx .env"),
        *WELL["findings"],
        finding("fail", "endpoint", "port", "held by \x1b[31mpython", "kill 7 " + "word " * 30),
    ],
}


def test_healthy_host_in_few_lines() -> None:
    lines = doctor_lines(WELL, 80, shows_all=False)
    assert [line.text for line in lines] == [
        "ok  service         unit: active",
        "ok                  worker: ready",
        "ok  gpu             driver: NVIDIA driver 580",
        "",
        "healthy: 3 checks in 0.5 s, nothing found",
    ]
    assert lines[-1].tone is Tone.GOOD


def test_problems_first_the_worst_at_the_top() -> None:
    lines = doctor_lines(ILL, 60, shows_all=False)
    texts = [line.text for line in lines]
    assert texts[0] == "FAIL  endpoint: port"
    assert texts[1] == r"    held by \x1b[31mpython"
    assert texts[2].startswith("    -> kill 7 word")
    assert texts[3].startswith("       word")
    assert texts.index("WARN  settings: env-file") < texts.index("ok  service         unit: active")
    assert texts[-1] == "1 failed (port), 1 warned (env-file), of 5 checks in 0.5 s"
    assert lines[-1].tone is Tone.BAD
    assert max(map(len, texts)) <= 60


def test_exit_status_and_json(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/doctor", answer(WELL))
    assert ctl("doctor").code == 0
    daemon.on("GET /v1/doctor", answer(ILL))
    outcome = ctl("doctor", "--json")
    assert outcome.code == 1
    assert '"level": "fail"' in outcome.out


def test_who_may_not_ask_is_told_so(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("GET /v1/doctor", problem("not-permitted", 403))
    assert ctl("doctor").code == 77


def test_summary_names_what_is_wrong_but_not_all_of_it(daemon: FakeDaemon, ctl: Run) -> None:
    found = [
        finding("warn", "gpu", f"check{number}", "odd " * 40, "mend it") for number in range(9)
    ]
    lines = doctor_lines(WELL | {"findings": [*found, *WELL["findings"]]}, 80, shows_all=True)
    said = "9 warned (check0, check1, check2 and 6 more), of 12 checks in 0.5 s"
    assert lines[-1].text == said
    assert max(len(line.text) for line in lines) <= 80
    daemon.on("GET /v1/doctor", answer(ILL))
    shown = ctl("doctor")
    assert "\x1b" not in shown.out
    assert shown.err == ""
