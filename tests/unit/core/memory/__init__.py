"""Tests of the memory policy, with a make-believe engine that fails by a hidden truth."""
