"""Functions of the command line. Each parses its arguments and then calls the library."""
