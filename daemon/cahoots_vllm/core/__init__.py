"""Pure decisions over plain values: no I/O, no asyncio, no clock, no logging."""
