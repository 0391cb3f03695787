"""The rows of `make bench`: each file measures one subject; see run.py."""
