"""The keys that clients of the gateway must have, from wherever they were written."""

import os
import stat
from pathlib import Path

from cahoots_vllm.control.settings_schema import ConfigFile, at_line
from cahoots_vllm.core.api_keys import read_line
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import GatewaySettings
from cahoots_vllm.host.files import read_text

_WHAT = "the keys"


def key_file(config: ConfigFile, config_path: Path) -> Path | None:
    """Return the file of keys; its path may be relative to the configuration's."""
    path = config.gateway.api_keys_file
    return config_path.parent.absolute() / path if path is not None else None


def read_key_file(path: Path) -> tuple[str, ...]:
    """Return the digests of the keys in a file.

    Raises CahootsError (BAD_SETTINGS) naming the line, never its text.
    """
    text = read_text(path, what=_WHAT)
    _refuse_open(path)
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            digest = read_line(line)
        except ValueError as error:
            raise CahootsError(
                Kind.BAD_SETTINGS,
                f"cannot read {_WHAT} {path}, line {number}: {error}",
                "a line is a key, its hash (sha256:...) or a # comment; cahootsctl config key "
                "makes one",
            ) from error
        if digest is not None:
            found.append(digest)
    return tuple(found)


def _refuse_open(path: Path) -> None:
    try:
        info = path.stat()
    except OSError:
        return  # it was there a moment ago: the next reading says it
    if not info.st_mode & stat.S_IROTH:
        return
    mode = stat.S_IMODE(info.st_mode)
    # Whom it would be closed to then may be us.
    is_ours = info.st_uid == os.geteuid() or info.st_gid == os.getegid()
    group = "" if is_ours else f"chgrp {os.getegid()} {path} && "
    raise CahootsError(
        Kind.BAD_SETTINGS,
        f"cannot use {_WHAT} {path}: every user of this host may read them (mode {mode:04o})",
        f"{group}chmod o= {path}, then cahootsctl reload",
    )


def refuse_keyless(gateway: GatewaySettings, config_path: Path) -> None:
    """Raise CahootsError (BAD_SETTINGS) where others could use the model without a key."""
    if not gateway.exposed or gateway.api_keys:
        return
    where = at_line(read_text(config_path, what="the configuration"), ("gateway", "listen"))
    addresses = ", ".join(gateway.exposed)
    raise CahootsError(
        Kind.BAD_SETTINGS,
        f"cannot use {config_path}{where}: gateway.listen: {addresses} is beyond loopback, and "
        "without a key anyone who reaches it could use the model",
        "make a key: cahootsctl config key says what to do with it; or listen on a Unix socket",
    )
