"""What packaging/quickstart and packaging/test do; standard library only, Python 3.11 or newer.

It runs before anything is installed, in whatever Python the user has. Only `demo_model` runs
elsewhere: in the engine's Python.
"""
