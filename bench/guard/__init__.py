"""`make bench-guard`: what a record costs on each part of its way, held against committed limits; see run.py."""
