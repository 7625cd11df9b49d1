"""The `.env` of a run: read as the daemon reads it, made where there is none, never edited."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .console import SetupError

DEFAULT_PORT = 8001
HTTP_PORT = 80  # what a URL without a port means
KEYS = ("LLM_PROVIDER", "LOCAL_LLM_URL", "LOCAL_LLM_MODEL")
# With python-dotenv, as the daemon does, and in its environment: its grammar is nobody else's.
READER = """
import json, sys, dotenv
values = dotenv.dotenv_values(sys.argv[1])
print(json.dumps({key: values.get(key) for key in sys.argv[2:]}))
"""
TEMPLATE = """\
# Made by packaging/quickstart, in Cahoots' own keys. Edit it as you like: it is not made again.
# What is missing here is Cahoots' business; this may be Cahoots' own .env.

# local: this host runs the model. Any other provider: the model is stopped, the GPU is free.
LLM_PROVIDER=local
LOCAL_LLM_URL=http://localhost:{port}/v1
# A Hugging Face repository or a directory.
LOCAL_LLM_MODEL={model}
# Only models behind a licence or a login need a token; it goes to the downloader and nowhere else.
HUGGINGFACE_API_KEY=
"""


@dataclass(frozen=True, slots=True)
class EnvFile:
    """The keys of a `.env` that decide what quickstart does; None where it has none."""

    path: Path
    provider: str | None
    model: str | None
    port: int
    has_key: bool = False  # in LOCAL_LLM_URL: the gateway asks for it

    @property
    def is_local(self) -> bool:
        """Whether the model is this host's business: then, and only then, the daemon runs it."""
        return self.provider == "local"


def read(path: Path, python: Path) -> EnvFile:
    """Read an existing `.env` with the daemon's Python."""
    command = [str(python), "-I", "-c", READER, str(path), *KEYS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["unknown"])[-1]
        message = f"cannot read {path}: {reason}"
        raise SetupError(message, "mend it or move it away")
    values: dict[str, str | None] = json.loads(done.stdout)
    url = values["LOCAL_LLM_URL"] or f"http://localhost:{DEFAULT_PORT}/v1"
    try:
        parts = urlsplit(url)
        port = parts.port or HTTP_PORT
    except ValueError as error:
        remedy = f"write it like LOCAL_LLM_URL=http://localhost:{DEFAULT_PORT}/v1"
        message = f"{path}: LOCAL_LLM_URL has no valid port"
        raise SetupError(message, remedy) from error
    provider = (values["LLM_PROVIDER"] or "").strip().lower()
    model = (values["LOCAL_LLM_MODEL"] or "").strip()
    return EnvFile(path, provider or None, model or None, port, bool(parts.password))


def create(path: Path, model: str, port: int) -> None:
    """Write a `.env`, readable by its owner only, since a token may come into it."""
    text = TEMPLATE.format(model=model, port=port)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
