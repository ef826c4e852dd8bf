"""The command line's functions: parse, then call."""
