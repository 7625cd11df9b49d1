"""The gateway on a Unix socket and beyond loopback, within the sandbox of the real unit."""

import json
from collections.abc import Iterator

import pytest

from system.machine import wait_for
from system.service import UNIT, USER
from system.stand_in import CONFIG, StandIn

_SOCKET = "/run/cahoots-vllm-gateway/gateway.sock"
_ASK = """\
import http.client, socket, sys
where, *key = sys.argv[1:]
connection = http.client.HTTPConnection("localhost", 8001, timeout=10)
if where.startswith("/"):
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(where)
else:
    connection = http.client.HTTPConnection(where, 8001, timeout=10)
connection.request("GET", "/v1/models", headers={"X-Api-Key": key[0]} if key else {})
print(connection.getresponse().status)
"""


def ask(stand_in: StandIn, where: str, *key: str, user: str = "root") -> str:
    """Return the status of an answer, or the error's name."""
    done = stand_in.machine.run(
        ["/usr/bin/python3", "-c", _ASK, where, *key], user=user, check=False
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1].partition(":")[0]


@pytest.fixture
def exposed(stand_in: StandIn) -> Iterator[tuple[StandIn, str]]:
    """The service on all addresses and a Unix socket, with a file of one key; and the key."""
    made = json.loads(stand_in.ctl("--json", "config", "key").stdout)
    keys = "/etc/cahoots-vllm/api-keys"
    stand_in.machine.write(keys, f"{made['hash']}\n", owner=f"root:{USER}", mode="0640")
    gateway = f'listen = ["0.0.0.0", "unix:{_SOCKET}"]\napi_keys_file = "api-keys"\n'
    stand_in.write_config("cahoots-vllm.toml", CONFIG + gateway)
    is_there = ["test", "-S", _SOCKET]
    wait_for(lambda: stand_in.machine.run(is_there, check=False).returncode == 0, 15)
    yield stand_in, made["key"]
    stand_in.write_config("cahoots-vllm.toml", CONFIG)
    wait_for(lambda: not stand_in.machine.run(["ls", _SOCKET], check=False).stdout, 15)


def test_socket_is_for_the_group_and_everybody_else_needs_the_key(
    exposed: tuple[StandIn, str],
) -> None:
    stand_in, key = exposed
    machine = stand_in.machine
    machine.run(["useradd", "stranger"])
    assert machine.say("stat", "--format=%U:%G %a", _SOCKET) == f"{USER}:{USER} 660"
    assert ask(stand_in, _SOCKET, user=USER) == "200"
    assert ask(stand_in, _SOCKET, user="stranger") == "PermissionError"
    assert ask(stand_in, "127.0.0.1", user="stranger") == "401"
    assert ask(stand_in, "127.0.0.1", key, user="stranger") == "200"


def test_socket_stays_over_a_restart_and_its_directory_over_a_stop(
    exposed: tuple[StandIn, str],
) -> None:
    stand_in, _ = exposed
    machine, before = stand_in.machine, stand_in.worker_pid()
    inode = machine.say("stat", "--format=%i", _SOCKET)
    machine.systemctl("restart", UNIT)
    assert ask(stand_in, _SOCKET, user=USER) == "200"
    assert machine.say("stat", "--format=%i", _SOCKET) == inode
    assert stand_in.worker_pid() == before
    directory = machine.say("stat", "--format=%i", _SOCKET.rpartition("/")[0])
    machine.systemctl("stop", UNIT)
    assert ask(stand_in, _SOCKET) == "FileNotFoundError"
    machine.systemctl("start", UNIT)
    assert machine.say("stat", "--format=%i", _SOCKET.rpartition("/")[0]) == directory
    wait_for(lambda: ask(stand_in, _SOCKET, user=USER) == "200", 30)
