"""The metadata of the cluster: its records, the image that they build, and the decisions that make new ones. Pure."""
