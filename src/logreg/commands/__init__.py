"""The command line: one file a command, all of them on `command_line`."""
