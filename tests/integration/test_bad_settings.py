"""What makes the daemon refuse to start: one sentence, what to do, and an exit status."""

import socket

import pytest

from .harness import Daemon


def assert_refuses(daemon: Daemon, status: int, *parts: str, args: tuple[str, ...] = ()) -> None:
    """Check exit status and message, and that nothing is left lying about."""
    code, said = daemon.run_to_end(*args)
    assert code == status, said
    assert said.startswith("cahoots-vllmd: cannot "), said
    assert len(said.splitlines()) == 2, said
    for part in parts:
        assert part in said, said
    assert not daemon.socket.exists()


def test_bad_line_in_the_env_file(daemon: Daemon) -> None:
    with (daemon.root / ".env").open("a") as file:
        file.write("THIS IS NO LINE\n")
    assert_refuses(daemon, 78, f"{daemon.root}/.env, line 5: not KEY=VALUE", "mend the line")


def test_missing_env_file(daemon: Daemon) -> None:
    (daemon.root / ".env").unlink()
    assert_refuses(daemon, 78, f"{daemon.root}/.env: no such file", "create it")


def test_unreadable_env_file(daemon: Daemon) -> None:
    (daemon.root / ".env").unlink()
    (daemon.root / ".env").mkdir()
    assert_refuses(daemon, 78, f"{daemon.root}/.env: it is a directory")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[gateway]\nhold_timeot_s = 5\n", ("gateway.hold_timeot_s", "hold_timeout_s?")),
        ("[gatway]\n", ("gatway", "did you mean gateway?")),
        ("[gateway]\nhold_max = -1\n", ("gateway.hold_max", "greater than or equal to 0")),
        ('[gateway]\nlisten = ["0.0.0.0"]\n', ("gateway.listen", "beyond loopback")),
        ("[gateway\n", ("line 1", "mend the line")),
        ("[options]\nport = 8000\n", ("options.port", "the daemon sets it itself")),
        ('[options]\n"--max-model-len" = 5\n', ("options.--max-model-len", "without dashes")),
    ],
)  # fmt: skip
def test_bad_configuration(daemon: Daemon, text: str, parts: tuple[str, ...]) -> None:
    file = daemon.config / "cahoots-vllm.toml"
    file.write_text(text)
    assert_refuses(daemon, 78, str(file), *parts)


def test_bad_profile(daemon: Daemon) -> None:
    (daemon.config / "models.d" / "bad.toml").write_text('name = "x"\nsuorce = "y"\n')
    assert_refuses(daemon, 78, "bad.toml, line 2: suorce", "did you mean source?")


@pytest.mark.parametrize("url", ["https://localhost/v1", "localhost:8001", "http://localhost:x/"])
def test_bad_url(daemon: Daemon, url: str) -> None:
    daemon.write_env(LOCAL_LLM_URL=url)
    assert_refuses(daemon, 78, "LOCAL_LLM_URL", "http://localhost:8001/v1")


def test_missing_engine(daemon: Daemon) -> None:
    nowhere = str(daemon.root / "nowhere")
    assert_refuses(daemon, 78, f"the engine {nowhere}: it has no bin/vllm", "engine.path",
                   args=("--engine", nowhere))  # fmt: skip


def test_taken_port(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", daemon.port)):
        assert_refuses(daemon, 1, f"cannot listen on port {daemon.port}", "ss -ltnp")


def test_second_daemon_on_the_same_socket(daemon: Daemon) -> None:
    daemon.start_ready()
    first, before = daemon.process, daemon.log.read_text()
    code, said = daemon.run_to_end()
    daemon.process = first
    assert code == 1
    assert "another cahoots-vllmd is running" in said.removeprefix(before)
    assert daemon.says("undisturbed") == "fake: undisturbed"


def test_stale_socket_is_replaced(daemon: Daemon) -> None:
    daemon.start()
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start_ready()


def test_damaged_state_file_is_put_aside_and_told(daemon: Daemon) -> None:
    daemon.state_file.parent.mkdir(parents=True)
    daemon.state_file.write_text('{"generation": ')
    daemon.start_ready()
    assert any("put aside" in warning for warning in daemon.status()["warnings"])
    assert daemon.state_file.with_suffix(".damaged").exists()


def test_configuration_named_but_missing(daemon: Daemon) -> None:
    missing = str(daemon.root / "missing.toml")
    assert_refuses(daemon, 78, missing, args=("--config", missing))
