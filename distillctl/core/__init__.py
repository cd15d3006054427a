"""The library below the commands: everything that can be used without the command line."""
