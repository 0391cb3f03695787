"""Kafka's own wire protocol: a second listener of every node, for Kafka's clients and tools as they are."""
