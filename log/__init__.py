"""Record batches, segment logs and the folder that they live in: the only code that touches data files."""
