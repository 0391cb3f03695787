"""The deterministic simulator: virtual disk, network and clock, under which whole clusters run in one thread."""
