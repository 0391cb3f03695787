"""Sockets, envelopes and the message catalogue: the only code that touches sockets."""
