"""`make bench-peers`: zmqbroker and other brokers, measured side by side in one run; see run.py."""
