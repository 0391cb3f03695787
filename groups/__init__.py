"""Consumer groups, their offsets, and share groups: the rules, pure. No I/O, no clock, no randomness of their own."""
