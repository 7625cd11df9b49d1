"""The token of `.env` is shown nowhere, even when the engine itself prints it or dies with it."""

from pathlib import Path

from fake_vllm.script import Behaviour

from .harness import Daemon, living

_TOKEN = "hf_" + "0123456789abcdefghij"
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
        "events": _events(daemon),
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


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _events(daemon: Daemon) -> str:
    response = daemon.open_stream("/v1/events", {"Last-Event-ID": "0"})
    return response.read1(1_000_000).decode()
