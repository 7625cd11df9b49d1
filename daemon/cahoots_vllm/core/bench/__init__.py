"""What `cahootsctl bench` measures, and what its figures mean. Pure."""
