"""Tests of the pure core: no I/O but the log files of the stand-in engine."""
