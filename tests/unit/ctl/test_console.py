"""Escaping, colours and progress."""

import io
import json

import pytest

from cahoots_vllm.ctl.console import Console
from cahoots_vllm.ctl.text import Line, Tone


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def console(
    out: io.StringIO, err: io.StringIO, *, as_json: bool = False, env: dict[str, str] | None = None
) -> Console:
    return Console(out, err, env or {}, as_json=as_json)


@pytest.mark.parametrize(
    ("env", "shown"),
    [
        ({}, "\x1b[32mready\x1b[0m\n"),
        ({"NO_COLOR": "1"}, "ready\n"),
        ({"TERM": "dumb"}, "ready\n"),
    ],
)
def test_colours_a_terminal_unless_told_not_to(env: dict[str, str], shown: str) -> None:
    out = Terminal()
    console(out, Terminal(), env=env).result({}, [Line("ready", Tone.GOOD)])
    assert out.getvalue() == shown


def test_does_not_colour_a_pipe() -> None:
    out = io.StringIO()
    console(out, Terminal()).result({}, [Line("ready", Tone.GOOD)])
    assert out.getvalue() == "ready\n"


def test_escapes_what_a_terminal_would_obey() -> None:
    out = io.StringIO()
    console(out, io.StringIO()).result({}, [Line("a\x1b]0;x\x07\x9b2J\u202eb\ud800\tc\nd")])
    assert out.getvalue() == "a\\x1b]0;x\\x07\\x9b2J\\u202eb\\ud800\tc\\nd\n"


def test_json_is_one_document_and_safe_on_a_terminal() -> None:
    out = io.StringIO()
    console(out, io.StringIO(), as_json=True).result({"a": "\x1b\x9b"}, [Line("not shown")])
    assert json.loads(out.getvalue()) == {"a": "\x1b\x9b"}
    assert "\x1b" not in out.getvalue()
    assert "\x9b" not in out.getvalue()


def test_a_locale_that_lacks_a_character_does_not_end_the_program() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    Console(out, io.StringIO(), {}, as_json=False).result({}, [Line("61 °C")])
    assert raw.getvalue() == b"61 \\xb0C\n"


def test_progress_without_a_terminal_is_a_line_per_change() -> None:
    err = io.StringIO()
    shown = console(io.StringIO(), err)
    for elapsed_s, text in enumerate(["draining", "draining", "starting \x1b", "draining"]):
        shown.progress(text, elapsed_s)
    assert err.getvalue() == "draining\nstarting \\x1b\ndraining\n"


def test_progress_on_a_terminal_is_one_line_that_gives_way_to_text() -> None:
    out, err = io.StringIO(), Terminal()
    shown = console(out, err)
    shown.progress("starting", 61)
    shown.progress("starting", 62)
    shown.note([Line("done")])
    updates = err.getvalue().split("\r\x1b[K")
    assert updates == ["", "starting (1 min 1 s)", "starting (1 min 2 s)", "done\n"]


def test_progress_never_wraps() -> None:
    err = Terminal()
    console(io.StringIO(), err).progress("x" * 500, 1)
    assert len(err.getvalue().removeprefix("\r\x1b[K")) == 99
