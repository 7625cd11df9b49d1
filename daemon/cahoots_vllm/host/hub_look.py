"""Looks at a repo on the hub without downloading it; a program of its own, as hub_fetch is.

Run as `python -m cahoots_vllm.host.hub_look REPO [REVISION]` with HF_TOKEN and HF_ENDPOINT in the
environment. Prints one JSON object: {"sha", "files": {name: bytes}, "config", "gated"} or
hub_errors' {"cause", "evidence", "remedy", "retry"}. Writes nothing: it needs no room anywhere.
"""

import json
import sys

from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined] # as in hub_fetch
    HFValidationError,
    HTTPError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined] # documented, not re-exported
    build_hf_headers,
    hf_raise_for_status,
)

from cahoots_vllm.host.children import end_with_parent
from cahoots_vllm.host.hub_errors import explain

_TIMEOUT_S = 20.0
_MAX_CONFIG_BYTES = 16 << 20


def main() -> int:
    """Ask and print; the exit status is 0 whenever the line says how it went."""
    end_with_parent()
    repo = sys.argv[1]
    revision = sys.argv[2] if len(sys.argv) > 2 else None  # noqa: PLR2004 (optional second argument)
    try:
        said = _look(repo, revision)
    except (HTTPError, HFValidationError, OSError, ValueError) as error:
        said = explain(repo, revision, error).view()
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


def _look(repo: str, revision: str | None) -> dict[str, object]:
    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
    files = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    config: object = {}
    if 0 < files.get("config.json", 0) <= _MAX_CONFIG_BYTES:
        config = _read_config(repo, str(info.sha))
    return {"sha": info.sha, "files": files, "config": config, "gated": bool(info.gated)}


def _read_config(repo: str, commit: str) -> object:
    """Return it, empty where it says nothing that can be read."""
    # The very file: for a gated repo this is what shows whether the token may have it.
    url = hf_hub_url(repo, "config.json", revision=commit)
    response = get_session().get(url, headers=build_hf_headers(), timeout=_TIMEOUT_S)
    hf_raise_for_status(response)
    try:
        found = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
