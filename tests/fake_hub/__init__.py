"""A hub on loopback that speaks the real protocol to the real huggingface_hub, and fails as told.

By hand: `python -m fake_hub ORG/NAME=DIRECTORY ...`, then set HF_ENDPOINT to what it prints.
"""

from .hub import FakeHub, Fault, Repo, lfs_repo
from .running import running_hub

__all__ = ["FakeHub", "Fault", "Repo", "lfs_repo", "running_hub"]
