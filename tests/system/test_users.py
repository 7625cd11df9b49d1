"""Who may do what, by the kernel's word on real users; the journal names them."""

import pytest

from system.service import UNIT
from system.stand_in import StandIn


@pytest.fixture(scope="module")
def _users(_stand_in: StandIn) -> None:
    machine = _stand_in.machine
    machine.run(["useradd", "outsider"])
    machine.run(["useradd", "--groups", "cahoots-vllm", "insider"])


@pytest.fixture
def users(stand_in: StandIn, _users: None) -> StandIn:
    """The ready service on a host with a user in its group and one outside."""
    return stand_in


@pytest.mark.parametrize("words", [("swap-model", "org/b"), ("reload",), ("stop",), ("status",)])
def test_user_outside_of_the_group_is_told_how_to_get_in(users: StandIn, words: list[str]) -> None:
    before = users.worker_pid()
    refused = users.ctl(*words, user="outsider")
    assert refused.returncode == 77, refused
    assert "usermod -aG cahoots-vllm" in refused.stderr
    assert users.worker_pid() == before


@pytest.mark.parametrize("user", ["insider", "root", "cahoots-vllm"])
def test_member_of_the_group_and_root_may_swap_and_the_journal_names_them(
    users: StandIn, user: str
) -> None:
    machine = users.machine
    since = machine.say("date", "+%s.%N")

    swapped = users.ctl("swap-model", "org/b", user=user)

    assert swapped.returncode == 0, swapped
    assert users.status()["model"]["serving"] == "org/b"
    uid = machine.say("id", "-u", user)
    said = machine.messages(f"--since=@{since}", f"--unit={UNIT}")
    assert f"(swap-model) asked for by {user} (uid {uid}), pid " in said
    assert users.ctl("swap-model", "--reset", user=user).returncode == 0
