"""Lets a process under test take a socket of the test's for journald's.

Python imports this module at its start when its directory is on PYTHONPATH (site, the module).
"""

import os
from pathlib import Path

from cahoots_vllm.host import journal

if path := os.environ.get("FAKE_JOURNALD"):
    journal.SOCKET = Path(path)
