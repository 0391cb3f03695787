"""The version, as the package, its command line and its nodes tell it."""

VERSION = "0.1.0"
