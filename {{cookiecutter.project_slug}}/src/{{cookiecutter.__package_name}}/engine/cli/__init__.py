"""The command line: arguments, start of the processes, help and error messages."""
