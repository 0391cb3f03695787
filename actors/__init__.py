"""The actors of a node, and the reactor that runs them on one thread."""
