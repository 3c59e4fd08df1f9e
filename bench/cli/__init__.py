"""The command line: options become values, commands call the packages."""
