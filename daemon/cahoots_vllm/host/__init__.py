"""Adapters to the host; none knows another."""
