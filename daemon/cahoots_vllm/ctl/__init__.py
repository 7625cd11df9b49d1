"""cahootsctl: standard library and `core.wire` only."""
