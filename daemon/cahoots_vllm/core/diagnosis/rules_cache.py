"""The rows for what the engine compiled before and reads again: looked at before all others.

The same words are said of weights, packages and options; here the stack tells, and what was
compiled can be compiled again. Wordings: dlopen(3), Python's pickle and json, CUDA.
"""

from cahoots_vllm.core.diagnosis.causes import Cause
from cahoots_vllm.core.diagnosis.frames import CACHE_FRAMES
from cahoots_vllm.core.diagnosis.rule import Rule, rule

CACHE_RULES: tuple[Rule, ...] = (
    rule(
        Cause.CACHE_DAMAGED,
        r"file too short|invalid ELF header|ELF load command|ELF file|Failed to import \S+\.py"
        r"|UnpicklingError|pickle data was truncated|invalid load key|Ran out of input|EOFError"
        r"|JSONDecodeError|UnicodeDecodeError|bad marshal data|BadZipFile|zlib\.error"
        r"|device kernel image is invalid|INVALID_IMAGE",
        "start once more without the engine's caches; if it fails again, look at the disk, or set "
        "enforce-eager",
        within=CACHE_FRAMES,
        startup=True,
        retry=True,
    ),
)
