"""Why a worker died or would not start: cause, evidence, remedy, retryable or not.

Read like a maintainer would: by reasons, not by words. The table of wordings is in `rules_*`, the
weighing in `verdict`.
"""

from cahoots_vllm.core.diagnosis.causes import (
    NO_FIGURES,
    Cause,
    Diagnosis,
    Exit,
    Figures,
    Trait,
)
from cahoots_vllm.core.diagnosis.verdict import diagnose

__all__ = ["NO_FIGURES", "Cause", "Diagnosis", "Exit", "Figures", "Trait", "diagnose"]
