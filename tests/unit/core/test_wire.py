import pytest

from cahoots_vllm.core.wire import (
    SYSTEM_SOCKET,
    ExitCode,
    OperationState,
    Phase,
    socket_candidates,
    user_runtime_dir,
)


def test_explicit_socket_is_the_only_candidate() -> None:
    env = {"CAHOOTS_VLLM_SOCKET": "/srv/c.sock", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert socket_candidates(env, 7) == ("/srv/c.sock",)


def test_empty_socket_variable_counts_as_unset() -> None:
    assert socket_candidates({"CAHOOTS_VLLM_SOCKET": ""}, 7)[-1] == SYSTEM_SOCKET


def test_own_daemon_comes_before_the_system_one() -> None:
    assert socket_candidates({"XDG_RUNTIME_DIR": "/run/user/7"}, 7) == (
        "/run/user/7/cahoots-vllm/control.sock",
        SYSTEM_SOCKET,
    )


def test_without_a_login_session_a_private_directory_stands_in() -> None:
    assert user_runtime_dir({}, 7) == "/tmp/cahoots-vllm-7"  # noqa: S108 (only the name is made)
    assert user_runtime_dir({"TMPDIR": "/scratch"}, 7) == "/scratch/cahoots-vllm-7"


def test_system_socket_is_where_the_design_says() -> None:
    assert SYSTEM_SOCKET == "/run/cahoots-vllm/control.sock"


def test_exit_codes_are_fixed() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0,
        "FAILED": 1,
        "USAGE": 2,
        "NOT_READY": 3,
        "UNREACHABLE": 4,
        "TIMED_OUT": 5,
        "NOT_PERMITTED": 77,
        "BAD_SETTINGS": 78,
    }


def test_phases_are_fixed() -> None:
    assert " ".join(Phase) == "off preparing starting ready draining stopping backoff failed"


@pytest.mark.parametrize("state", OperationState)
def test_an_operation_is_over_unless_it_runs(state: OperationState) -> None:
    assert state.is_over is (state.value != "running")
