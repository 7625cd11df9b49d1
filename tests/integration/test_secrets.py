"""The token of `.env` is shown nowhere, even when the engine itself prints it or dies with it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fake_vllm.script import Behaviour

from .event_stream import event_stream, events_so_far
from .harness import Daemon, living, wait_for

_TOKEN = "hf_" + "0123456789abcdefghij"
_NEW = "hf_" + "jihgfedcba9876543210"
_KEY = "sk-" + "vllm-api-key-0123456789"


def test_token_is_shown_nowhere(daemon: Daemon) -> None:
    """The engine prints both secrets as it starts, and dies with them in its last error."""
    log = daemon.root / "leaky.log"
    log.write_text(
        f"(APIServer pid=1) INFO 11-22 10:00:00 [api_utils.py:1] token {_TOKEN} key={_KEY}\n"
        f"\rLoading {_TOKEN}: 50%\r\n"
        f"ValueError: 401 Client Error: the token {_TOKEN} and {_KEY} are refused\n"
    )
    behaviour = Behaviour(log=str(log.with_suffix("")), die_at="config")
    daemon.play(behaviour)
    daemon.write_env(HUGGINGFACE_API_KEY=_TOKEN, VLLM_API_KEY=_KEY, OTHER_PASSWORD="mine-" + "only")
    daemon.start("--verbose")
    argv = "".join(_command(pid) for pid in living())
    daemon.wait_phase("failed")
    texts = {
        "argv": argv + " ".join(daemon.worker_argv()),
        "status": daemon.ctl("status").stdout + daemon.ctl("status", "--json").stdout,
        "logs": daemon.ctl("logs", "-n", "1000", "--json").stdout,
        "events": events_so_far(daemon.socket),
        "operations": daemon.ctl("operations", "list", "--json").stdout,
        "gateway": daemon.chat("x").body.decode(),
        "metrics": daemon.request("GET", "/metrics").body.decode(),
        "state file": daemon.state_file.read_text(),
        "standard error": daemon.log.read_text(),
    }
    assert "the token *** and *** are refused" in texts["logs"]
    assert "the token *** and *** are refused" in texts["status"]
    for where, text in texts.items():
        for secret in (_TOKEN, _KEY, "mine-only"):
            assert secret not in text, where


def test_token_in_a_bad_line_of_the_env_file_is_not_repeated(daemon: Daemon) -> None:
    daemon.write_env()
    with (daemon.root / ".env").open("a") as file:
        file.write(f"HUGGINGFACE_API_KEY: {_TOKEN}\n")
    code, said = daemon.run_to_end()
    assert code == 78
    assert "line 5" in said
    assert _TOKEN not in said


def test_password_in_the_url_is_not_repeated(daemon: Daemon) -> None:
    daemon.write_env(LOCAL_LLM_URL=f"https://user:{_TOKEN}@localhost:8001/v1")
    code, said = daemon.run_to_end()
    assert code == 78
    assert _TOKEN not in said


def test_foreign_values_of_the_env_file_go_nowhere(daemon: Daemon) -> None:
    daemon.write_env(OPENAI_API_KEY="sk-" + "elsewhere", DATABASE_URL="pg://elsewhere")
    daemon.start_ready()
    for pid in living():
        assert b"elsewhere" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_rotated_token_is_shown_nowhere_neither_the_old_nor_the_new(daemon: Daemon) -> None:
    """From the first worker, through the edit and mistakes in it, to one that dies with it."""
    texts: dict[str, str] = {}
    daemon.write_env(HUGGINGFACE_API_KEY=_TOKEN)
    with _seen_commands() as commands:
        daemon.start_ready("--verbose")
        with event_stream(daemon.socket) as events:
            daemon.write_env(HUGGINGFACE_API_KEY=_NEW)
            texts["diff"] = _of(daemon, "config", "diff")
            events.next("reload")
        daemon.get(f"/v1/late-{_TOKEN}")  # into the log of the worker that has the old one
        daemon.change("restart")
        daemon.get(f"/v1/new-{_NEW}")
        texts["refusals"] = _refusals_of_edits(daemon)
        daemon.play_next(_dying_with(daemon.root / "leaky.log", _NEW))
        texts["operation"] = str(daemon.change("restart"))
        daemon.wait_phase("failed")
        texts |= _everything_told(daemon)
    texts["argv"] = " ".join((*commands, *daemon.worker_argv()))
    for said in ("GET /v1/late-***", "GET /v1/new-***", "the token *** is refused"):
        assert said in texts["logs"], said
    assert "HUGGINGFACE_API_KEY: *** -> ***" in texts["diff"]
    assert "cahoots_vllm" in texts["argv"]
    for where, text in texts.items():
        for secret in (_TOKEN, _NEW):
            assert secret not in text, where


def _refusals_of_edits(daemon: Daemon) -> str:
    """Make mistakes around the new token and return what is said about them."""
    good = (daemon.root / ".env").read_text()
    said = []
    mistakes = (
        f"HUGGINGFACE_API_KEY: {_NEW}",
        f"HUGGINGFACE_API_KEY='{_NEW} {_TOKEN}'",
        f"LOCAL_LLM_URL={_NEW}",
        f"LOCAL_LLM_MODEL=a\0{_NEW}",
    )
    for line in mistakes:
        (daemon.root / ".env").write_text(f"{good}{line}\n")
        wait_for(lambda: daemon.status()["config"]["error"], what="the mistake is said")
        for method, path in (("POST", "/v1/reload"), ("GET", "/v1/config/diff")):
            answer = daemon.request(method, path)
            assert answer.status >= 400, line
            said.append(answer.body.decode())
        said += [_of(daemon, "status"), _of(daemon, "reload")]
        (daemon.root / ".env").write_text(good)
        wait_for(lambda: daemon.status()["config"]["error"] is None, what="it is mended")
    return "".join(said)


def _dying_with(log: Path, token: str) -> Behaviour:
    """Return a start that dies with a token in its last error."""
    log.write_text(f"ValueError: 401 Client Error: the token {token} is refused\n")
    return Behaviour(log=str(log.with_suffix("")), die_at="config")


def _everything_told(daemon: Daemon) -> dict[str, str]:
    """Return all that the daemon says and writes, by where."""
    state = daemon.root / "state"
    return {
        "status": _of(daemon, "status") + _of(daemon, "status", "--json"),
        "configuration": _of(daemon, "config") + _of(daemon, "config", "--json"),
        "logs": _of(daemon, "logs", "-n", "5000", "--json"),
        "events": events_so_far(daemon.socket),
        "operations": _of(daemon, "operations", "--json"),
        "memory": _of(daemon, "memory", "--json"),
        "gateway": daemon.chat("x").body.decode(),
        "metrics": daemon.request("GET", "/metrics").body.decode(),
        "state": "".join(path.read_text() for path in state.rglob("*") if path.is_file()),
        "standard error": daemon.log.read_text(),
    }


def _of(daemon: Daemon, *argv: str) -> str:
    outcome = daemon.ctl(*argv)
    return outcome.stdout + outcome.stderr


@contextmanager
def _seen_commands() -> Iterator[set[str]]:
    """Collect the command line of every process there is below us, short-lived ones too."""
    seen: set[str] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.02):
            seen.update(_command(pid) for pid in living())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        is_over.set()
        looking.join()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
