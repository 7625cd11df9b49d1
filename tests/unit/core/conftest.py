"""Hypothesis for the core: its deadline of 200 ms measures how busy the machine is, not us."""

from hypothesis import settings

settings.register_profile("core", deadline=None)
settings.load_profile("core")
