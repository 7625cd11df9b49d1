"""The names nearest to one that is not known, for the end of a sentence."""

import difflib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.host import model_store
from cahoots_vllm.host.blocking import run_blocking

_DISK_DEADLINE_S = 10.0


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X or Y?`, empty where nothing is near."""
    lower = {k.lower(): k for k in known if k != name}
    within = [known for known in lower if name.lower() in known][:2]
    near = within or difflib.get_close_matches(name.lower(), list(lower), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(lower[n] for n in near)}?" if near else ""


async def with_near_names(
    diagnosis: Diagnosis, name: str, known: tuple[str, ...], cache_dir: Path
) -> Diagnosis:
    """Add the nearest names, of profiles and of what is on disk, where the hub knows none such."""
    # A revision that is not there has the same cause, and its repo's name is right.
    if diagnosis.cause is not Cause.HUB_NOT_FOUND or "name" not in diagnosis.remedy:
        return diagnosis
    on_disk = await run_blocking(
        lambda: model_store.list_repos(cache_dir), deadline_s=_DISK_DEADLINE_S
    )
    return replace(diagnosis, remedy=f"{diagnosis.remedy}{nearest(name, (*known, *on_disk))}")
