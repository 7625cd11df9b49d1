"""One real daemon for a test: its files, its process, and every process below it.

The test process is a subreaper, so whatever a daemon leaves behind, killed or not, in whatever
session, is found among our own descendants.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cahoots_vllm
from cahoots_vllm.ctl.client import Client
from cahoots_vllm.host import process_tree
from cahoots_vllm.host.children import own_children
from fake_vllm.engine_dir import WEIGHTS, add_standby, make_engine
from fake_vllm.script import Behaviour, starts, write_script

from .scripted_gpus import ScriptedGpus
from .service_manager import ServiceManager

Json = dict[str, Any]
_T = TypeVar("_T")

_SOURCES = str(Path(cahoots_vllm.__file__).parents[1])
PATIENCE_S = 30.0
# Short waits everywhere: a test that needs a default says so.
_CONFIG: dict[str, dict[str, float | str]] = {
    "worker": {"stop_grace_s": 1.0, "health_interval_s": 0.2},
    "gateway": {"drain_timeout_s": 5.0},
    # Two beside each other are test_overlap's; else what a test sees would depend on free memory.
    "swap": {"strategy": "sequential"},
}
# What a daemon must never write: an error nobody handled, a thing nobody closed.
_NEVER = ("Traceback", "never retrieved", "never awaited", "Unclosed", "ResourceWarning")


def wait_for(
    condition: Callable[[], _T | None], timeout_s: float = PATIENCE_S, *, what: str = ""
) -> _T:
    """Return the condition's value once it is true; fail when the time has run out."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > end:
            message = f"not within {timeout_s} s: {what or condition}"
            raise AssertionError(message)
        time.sleep(0.02)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def living() -> list[int]:
    """Return every living process below this one; reaps the orphans handed to us."""
    rows = process_tree.read_all()
    below = process_tree.descendants([os.getpid()], rows) - {os.getpid()}
    return sorted(pid for pid in below if not rows[pid].is_zombie)


def titles(pids: list[int]) -> list[str]:
    return [f"{pid} {process_tree.title(pid)}" for pid in pids]


def reap_orphans() -> None:
    """Reap what daemons that were killed have left to us. No child of our own may be running."""
    for pid in own_children():
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, whole."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 (whatever was sent)
        return json.loads(self.body)


class UnixConnection(http.client.HTTPConnection):
    """`http.client` on a Unix socket."""

    def __init__(self, path: Path, timeout_s: float = PATIENCE_S) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | str | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Send one request and read its answer."""
    connection.request(method, path, body=body, headers=headers or {})
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())


def chat_body(text: str, model: str = "org/a", **fields: object) -> str:
    message = {"role": "user", "content": text}
    return json.dumps({"model": model, "messages": [message]} | fields)


class Daemon:
    """A daemon on the stand-in engine, with the models `org/a` and `org/b` on disk."""

    def __init__(self, root: Path, runtime: Path) -> None:
        """`runtime` stands for XDG_RUNTIME_DIR: socket paths must stay short."""
        self.root = root
        self.home = root / "home"
        self.config = root / "config" / "cahoots-vllm"
        self.state_file = root / "state" / "cahoots-vllm" / "state.json"
        self.cache = root / "cache" / "cahoots-vllm"
        self.runtime = runtime / "cahoots-vllm"
        self.socket = self.runtime / "control.sock"
        self.engine = make_engine(root / "engine")
        self.script = root / "script.json"
        self.log = root / "daemon.log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        # Where a test has one, the daemon is its service.
        self.manager: ServiceManager | None = None
        self._connections: list[http.client.HTTPConnection] = []
        # A test that ends the daemon by other means than asking sets what it expects.
        self.expected_exits: tuple[int, ...] = (0,)
        self.environment = self._environment(runtime)
        self.env_values: dict[str, str] = {}
        (self.config / "models.d").mkdir(parents=True)
        self.home.mkdir()
        for name in ("a", "b"):
            self.add_model(f"org/{name}")
        self.play(Behaviour())
        self.configure()
        self.write_env()

    def _environment(self, runtime: Path) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.root / "config"),
            "XDG_STATE_HOME": str(self.root / "state"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "XDG_RUNTIME_DIR": str(runtime),
            "PYTHONPATH": _SOURCES,
        }

    # --- files -----------------------------------------------------------------------------

    def add_model(self, name: str) -> Path:
        """Put a model on disk and a profile for it beside the configuration."""
        short = name.replace("/", "-")
        directory = self.root / "models" / short
        directory.mkdir(parents=True)
        (directory / "config.json").write_text('{"max_position_embeddings": 2048}')
        (directory / "model.safetensors").write_bytes(WEIGHTS)
        profile = f'name = "{name}"\nsource = "{directory}"\n'
        (self.config / "models.d" / f"{short}.toml").write_text(profile)
        return directory

    def give_gpus(self, gpus: ScriptedGpus) -> None:
        """Let the engine be a GPU engine, and the daemon see these GPUs."""
        self.engine = make_engine(self.root / "gpu-engine", version="0.32.0")
        path = f"{gpus.environment['PYTHONPATH']}:{_SOURCES}"
        self.environment |= gpus.environment | {"PYTHONPATH": path}

    def play_next(self, *behaviours: Behaviour) -> None:
        """Say what the starts to come do, whatever was started before."""
        self.play(*[Behaviour()] * self.started(), *behaviours)

    def play(self, *behaviours: Behaviour, **by_model: dict[str, object]) -> None:
        """Say what each start of the engine does; `a` and `b` override it for `org/a`, `org/b`."""
        models = {f"org/{name}": changes for name, changes in by_model.items()}
        write_script(self.script, *behaviours, by_model=models)

    def configure(self, standby: str = "off", /, **tables: Mapping[str, float | str]) -> None:
        """Write cahoots-vllm.toml: the tables over the tests' own."""
        lines = [f'standby = "{standby}"']
        if standby != "off":
            add_standby(self.engine)
        for table in {*_CONFIG, *tables}:
            lines.append(f"[{table}]")
            values = {**_CONFIG.get(table, {}), **tables.get(table, {})}
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        (self.config / "cahoots-vllm.toml").write_text("\n".join(lines) + "\n")

    def write_env(self, **values: str) -> None:
        """Write `.env` with these values over those already in it."""
        default = {
            "LLM_PROVIDER": "local",
            "LOCAL_LLM_URL": f"http://localhost:{self.port}/v1",
            "LOCAL_LLM_MODEL": "org/a",
            "VLLM_FAKE_SCRIPT": str(self.script),
        }
        self.env_values = default | self.env_values | values
        lines = (f"{key}={value}\n" for key, value in self.env_values.items())
        (self.root / ".env").write_text("".join(lines))

    # --- the process -----------------------------------------------------------------------

    def start(self, *args: str) -> None:
        """Start it and wait until its control socket answers."""
        self.launch(*args)
        wait_for(self.is_up, what="the control socket answers")

    def launch(self, *args: str) -> subprocess.Popen[bytes]:
        """Start it and return at once."""
        # sdnotify forgets a socket where no systemd listens; whatever else is forgotten is ours.
        warnings = ("-W", "always::ResourceWarning", "-W", "ignore::ResourceWarning:sdnotify")
        command = [sys.executable, *warnings, "-m", "cahoots_vllm.main"]
        command += ["--user", "--engine", str(self.engine), *args]
        with self.log.open("ab") as log:
            if self.manager is not None:
                self.process = self.manager.popen(
                    command[1:], self.environment, self.root, log.fileno()
                )
                return self.process
            self.process = subprocess.Popen(
                command, cwd=self.root, env=self.environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        return self.process

    def run_to_end(self, *args: str) -> tuple[int, str]:
        """Start a daemon that cannot serve; return its exit status and what it said."""
        code = self.launch(*args).wait(PATIENCE_S)
        self.process = None
        return code, self.log.read_text()

    def is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.request("GET", "/v1/health").status == 200
        except OSError:
            return False

    def start_ready(self, *args: str) -> None:
        self.start(*args)
        self.wait_phase("ready")

    def stop(self, signum: signal.Signals = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> int:
        """End it, wait, and return its exit status."""
        assert self.process is not None
        self.process.send_signal(signum)
        code = self.process.wait(timeout_s)
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL it: no time to tidy up."""
        assert self.stop(signal.SIGKILL) == -signal.SIGKILL

    def finish(self) -> None:
        """End the test: stop the daemon, and fail if it or anything below it does not end well."""
        code = 0
        for connection in self._connections:
            connection.close()
        try:
            if self.process is not None:
                code = self.process.poll() or self.stop()
        finally:
            left = titles(living())
            for pid in living():
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not living())
            if self.process is not None:
                self.process.wait(PATIENCE_S)
            reap_orphans()
        log = self.log.read_text() if self.log.exists() else ""
        assert not left, f"left behind: {left}\n{log}"
        assert code in self.expected_exits, f"exit status {code}\n{log}"
        assert not [word for word in _NEVER if word in log], log

    # --- what it serves --------------------------------------------------------------------

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Ask the control API as cahootsctl does. Raises ProblemError when refused."""
        return Client([str(self.socket)], os.getuid()).call(
            method, path, body, timeout_s=PATIENCE_S
        )

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Ask the control API with any request at all."""
        connection = UnixConnection(self.socket)
        try:
            return exchange(connection, method, path, body, headers)
        finally:
            connection.close()

    def gateway(self, host: str = "127.0.0.1") -> http.client.HTTPConnection:
        """Return a connection to the gateway, closed at the end of the test."""
        return self._opened(http.client.HTTPConnection(host, self.port, timeout=PATIENCE_S))

    def worker(self, generation: int) -> http.client.HTTPConnection:
        """Return a connection to a worker's own socket."""
        return self._opened(UnixConnection(self.runtime / f"worker-{generation}.sock"))

    def _opened(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
        self._connections.append(connection)
        return connection

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        connection = self.gateway()
        try:
            return exchange(connection, "GET", path, headers=headers)
        finally:
            connection.close()

    def chat(self, text: str, model: str = "org/a", **fields: object) -> Answer:
        """Send a chat through the gateway and read the whole answer."""
        connection = self.gateway()
        try:
            body = chat_body(text, model, **fields)
            headers = {"Content-Type": "application/json"}
            return exchange(connection, "POST", "/v1/chat/completions", body, headers)
        finally:
            connection.close()

    def says(self, text: str, model: str = "org/a") -> str:
        """Return the content of a chat's answer."""
        answer = self.chat(text, model)
        assert answer.status == 200, answer.body
        return str(answer.json()["choices"][0]["message"]["content"])

    def ctl(self, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cahoots_vllm.ctl.main", *args],
            env=self.environment | environment, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, timeout=30,
        )  # fmt: skip

    # --- what it is doing ------------------------------------------------------------------

    def status(self) -> Json:
        return self.api("GET", "/v1/status")

    def log_entries(self, count: int) -> list[Json]:
        """Return the last entries of `cahootsctl logs`."""
        body = self.request("GET", f"/v1/logs?n={count}").body
        return [json.loads(line) for line in body.splitlines()]

    def phase(self) -> str:
        return str(self.request("GET", "/v1/health").json()["state"])

    def wait_phase(self, *phases: str, timeout_s: float = PATIENCE_S) -> str:
        wait_for(lambda: self.phase() in phases, timeout_s, what=f"{phases}, is {self.phase()}")
        return self.phase()

    def wait_held(self, count: int) -> None:
        wait_for(lambda: self.status()["requests"]["held"] == count, what=f"{count} held")

    def wait_generation(self, least: int) -> None:
        """Wait until a worker at least this young is ready."""

        def is_there() -> bool:
            status = self.status()
            is_ready = status["state"] == "ready"
            return is_ready and int(status["worker"]["generation"]) >= least

        wait_for(is_there, what=f"generation {least} is ready")

    def change(self, verb: str, body: Json | None = None) -> Json:
        """Ask for a change and return the operation once it is over."""
        operation = self.api("POST", f"/v1/{verb}", body or {})
        return self.wait_operation(str(operation["id"]))

    def wait_operation(self, id_: str) -> Json:
        path = f"/v1/operations/{id_}/wait?timeout=10"
        return wait_for(lambda: _if_over(self.api("GET", path)), what=f"operation {id_} is over")

    def end_operations(self) -> None:
        """Abort what is running, if anything is."""
        for operation in self.api("GET", "/v1/operations")["operations"]:
            if operation["state"] == "running":
                self.api("DELETE", f"/v1/operations/{operation['id']}")

    def swap(self, model: str) -> Json:
        return self.change("swap-model", {"model": model})

    def tree_pids(self) -> list[int]:
        """Return every living process below us but the daemon itself."""
        own = self.process.pid if self.process is not None else 0
        return [pid for pid in living() if pid != own]

    def pid_of(self, title: str) -> int:
        """Return the newest process with this in its title."""
        found = [pid for pid in self.tree_pids() if title in process_tree.title(pid)]
        assert found, titles(self.tree_pids())
        return found[-1]

    def main_pid(self) -> int:
        return int(self.status()["worker"]["pid"])

    def worker_argv(self) -> list[str]:
        """Return what the engine was started with last."""
        return starts(self.script)[-1].argv

    def started_with(self, option: str) -> list[str | None]:
        """Return an option's value at each start, None where it was not given."""
        return [_option(start.argv, option) for start in starts(self.script)]

    def is_downloader(self, pid: int) -> bool:
        return "hub_fetch" in process_tree.title(pid)

    def wait_started(self, count: int) -> None:
        wait_for(lambda: self.started() == count, what=f"{count} starts")

    def open_stream(
        self, path: str, headers: dict[str, str] | None = None, *, timeout_s: float = PATIENCE_S
    ) -> http.client.HTTPResponse:
        """Open an endless answer of the control API; reading from it is bounded as well."""
        connection = self._opened(UnixConnection(self.socket, timeout_s))
        connection.request("GET", path, headers=headers or {})
        return connection.getresponse()

    def cause(self) -> str | None:
        """Return the cause of the last failure."""
        failed = self.status()["last_failure"]
        return str(failed["cause"]) if failed else None

    def read_state(self) -> Json:
        state: Json = json.loads(self.state_file.read_text())
        return state

    def write_state(self, state: Json) -> None:
        self.state_file.write_text(json.dumps(state))

    def process_of_another(self) -> subprocess.Popen[bytes]:
        """Start a process that is none of the daemon's business."""
        return subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)

    def started(self) -> int:
        """Return how many times the engine was started."""
        return len(starts(self.script))


def _option(argv: list[str], name: str) -> str | None:
    option = f"--{name}"
    return argv[argv.index(option) + 1] if option in argv else None


def _if_over(operation: Json) -> Json | None:
    return operation if operation["state"] != "running" else None
