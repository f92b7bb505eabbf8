"""The commands of the command line. Each is a few lines that call the library."""
