"""Fast tests of the pure core and of small adapters."""
