"""What the benches reckon."""
