"""The supervisor, the one owner of the state, and what it answers with."""
