"""Unit tests of cahootsctl."""
