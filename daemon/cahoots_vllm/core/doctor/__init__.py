"""What the doctor thinks of a host: facts in, findings out. Pure; host/* reads the facts."""
