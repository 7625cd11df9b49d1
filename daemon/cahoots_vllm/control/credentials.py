"""Secrets that systemd hands over (LoadCredential=, systemd.exec(5)) and `.env` does not have.

Their content is fixed for the life of the process: a new one is read by the next daemon.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cahoots_vllm.control.env_file import EnvFile
from cahoots_vllm.control.settings_schema import refuse_nul
from cahoots_vllm.core.env_values import TOKEN_KEYS
from cahoots_vllm.host.files import read_text

# By the credential's name: the key of `.env` it stands for, and those that make it needless.
_KEYS = {
    "cahoots-vllm.huggingface_api_key": TOKEN_KEYS,
    "cahoots-vllm.vllm_api_key": ("VLLM_API_KEY",),
}


def add_credentials(file: EnvFile, environ: Mapping[str, str]) -> EnvFile:
    """Return the file's pairs and those of the credentials for keys that it leaves empty.

    Raises CahootsError (BAD_SETTINGS) for a credential that cannot be read.
    """
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return file
    values, lines, elsewhere = dict(file.values), dict(file.lines), dict[str, str]()
    for name, keys in _KEYS.items():
        path = Path(directory) / name
        if any(values.get(key) for key in keys) or not path.exists():
            continue
        text = read_text(path, what="the credential")
        refuse_nul(text, path)
        values[keys[0]] = text.strip()  # a file ends with a newline, a secret does not
        lines.pop(keys[0], None)
        elsewhere[keys[0]] = f"the credential {name}"
    return replace(file, values=values, lines=lines, elsewhere=elsewhere)
