"""`make bench-growth`: how cost grows with the size of what is asked; each file measures one subject; see run.py."""
