"""The files for Docker, read by parsers of their own: Docker itself is not needed."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from compose_spec import PyCompose
from dockerfile_parse import DockerfileParser

from cahoots_vllm.control.settings_files import CommandLine, load_settings
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.core.wire import user_runtime_dir
from cahoots_vllm.host.paths import system_paths, user_paths
from fake_vllm.engine_dir import make_engine

CHECKOUT = Path(__file__).parents[3]
DOCKER = CHECKOUT / "packaging" / "docker"
SOCKET = "unix:/run/cahoots-vllm-gateway/gateway.sock"
KEY = "cv-" + "ofTheCompose" * 2
_VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")


def services(name: str) -> dict[str, Any]:
    """Return the services of a compose file. Raises ValueError where the specification is broken.

    Variables have their defaults, which Compose puts in before it parses. Of `host-gateway` the
    parser knows nothing: it stands for the address of Docker's bridge.
    """
    text = _VARIABLE.sub(r"\1", (DOCKER / name).read_text())
    parsed = PyCompose.from_yaml(text.replace(":host-gateway", ":172.17.0.1"))
    parsed.to_spec()
    found: dict[str, Any] = parsed.to_dict()["services"]
    return found


def instructions() -> list[tuple[str, str]]:
    parser = DockerfileParser(fileobj=(DOCKER / "Dockerfile").open("rb+"))
    try:
        rows = parser.structure
    finally:
        parser.fileobj.close()
    return [(r["instruction"], r["value"]) for r in rows if r["instruction"] != "COMMENT"]


def environment() -> dict[str, str]:
    words = (word for name, value in instructions() if name == "ENV" for word in shlex.split(value))
    return dict(word.split("=", 1) for word in words)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.host.yaml"])
def test_compose_file_is_one(name: str) -> None:
    assert services(name)


@pytest.mark.parametrize(
    "line", ["    imagee: x", "    ports: [a:b:c:d]", "    stop_grace_period: 3 minuts"]
)
def test_parser_of_compose_files_is_no_sleeper(line: str) -> None:
    with pytest.raises(ValueError, match=r"services\.a"):
        PyCompose.from_yaml(f"services:\n  a:\n    image: x\n{line}\n")


def test_container_gets_the_gpus_by_the_guides_profile() -> None:
    vllm = services("compose.yaml")["vllm"]
    assert vllm["profiles"] == ["local-inference"]
    (device,) = vllm["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", "all", ["gpu"])
    assert {"compute", "utility"} <= set(environment()["NVIDIA_DRIVER_CAPABILITIES"].split(","))
    assert vllm["shm_size"]
    assert vllm["pull_policy"] == "never"


def test_container_is_asked_on_health_and_given_time_to_finish() -> None:
    vllm = services("compose.yaml")["vllm"]
    *_, script = vllm["healthcheck"]["test"]
    compile(script, "healthcheck", "exec")
    assert "http://127.0.0.1:8001/health" in script
    unit = (CHECKOUT / "systemd" / "cahoots-vllm.service").read_text()
    assert "TimeoutStopSec=180\n" in unit
    assert vllm["stop_grace_period"] in ("180s", "3m")
    assert all(str(port).startswith("127.0.0.1:") for port in vllm["ports"])


def test_what_must_outlive_the_container_is_in_volumes() -> None:
    vllm, paths = services("compose.yaml")["vllm"], user_paths(None, environment())
    kept = [volume.split(":")[1] for volume in vllm["volumes"]]
    assert {str(paths.cache_dir), str(paths.state_file.parent), "/cahoots"} == set(kept)
    declared = next(value for name, value in instructions() if name == "VOLUME")
    assert all(f'"{place}"' in declared for place in kept if place != "/cahoots")
    assert Path(environment()["HOME"]).is_relative_to(paths.cache_dir)


def test_places_in_the_container_are_the_services() -> None:
    ours, theirs = user_paths(None, environment()), system_paths(None)
    for name in ("config", "runtime_dir", "state_file", "cache_dir"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert user_runtime_dir(environment(), 0) == "/run/cahoots-vllm"


def test_everything_that_is_copied_is_there_and_let_through() -> None:
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    sources = [w for name, v in instructions() if name == "COPY" for w in shlex.split(v)[:-1]]
    assert len(sources) > 5
    for source in sources:
        assert (CHECKOUT / source).exists(), source
        assert source.split("/")[0] in let_through, source
    assert not let_through & {".env", ".engine", ".venv", ".git"}


def test_daemon_is_the_first_process_and_gets_the_signals() -> None:
    found = dict(instructions())
    scripts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]
    assert found["ENTRYPOINT"] == '["cahoots-vllmd"]'  # no shell between: it would keep SIGTERM
    assert "cahoots-vllmd" in scripts
    assert found["CMD"] == '["--env-file", "/cahoots/.env"]'
    assert found["STOPSIGNAL"] == "SIGTERM"


def container_settings(directory: Path, url: str) -> Settings:
    """Return the settings as the container's daemon reads them."""
    env = directory / ".env"
    env.write_text(f"LLM_PROVIDER=local\nLOCAL_LLM_URL={url}\n")
    paths = user_paths(DOCKER / "cahoots-vllm.toml", environment())
    return load_settings(paths, CommandLine(env, make_engine(directory / "engine")))


def test_container_asks_for_the_key_that_cahoots_has_in_its_url(tmp_path: Path) -> None:
    settings = container_settings(tmp_path, f"http://cahoots:{KEY}@vllm:8001/v1")
    assert len(settings.gateway.api_keys) == 1
    assert settings.warnings == ()
    with pytest.raises(CahootsError, match="without a key"):
        container_settings(tmp_path, "http://vllm:8001/v1")


def test_cahoots_own_service_finds_the_host_and_the_socket_is_where_it_may_be() -> None:
    found = services("compose.host.yaml")
    hosts = found["cahoots-api"]["extra_hosts"]
    assert "host.docker.internal" in str(hosts)
    bridge = found["cahoots-vllm"]
    assert bridge["profiles"] == ["host-socket"]
    path = SOCKET.removeprefix("unix:")
    assert f"UNIX-CONNECT:{path}" in bridge["command"]
    directory = str(Path(path).parent)
    assert bridge["volumes"] == [f"{directory}:{directory}:ro"]
    unit = (CHECKOUT / "systemd" / "cahoots-vllm.service").read_text()
    assert f"ReadWritePaths=-{directory}\n" in unit
    tmpfiles = (CHECKOUT / "packaging" / "debian" / "cahoots-vllm.tmpfiles").read_text()
    assert f"d {directory} 0755 cahoots-vllm cahoots-vllm" in tmpfiles
    for text in (DOCKER / "compose.host.yaml", CHECKOUT / "etc" / "cahoots-vllm.toml"):
        assert SOCKET in text.read_text()
