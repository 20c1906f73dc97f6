"""The command line: one module a command. A command loads what is heavy when it runs, never when it is imported."""
