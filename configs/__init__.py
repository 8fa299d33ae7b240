"""Hydra's configuration: one root a command, and the groups they choose from."""
