"""The commands: each file answers the script of its name in ``scripts/``."""
