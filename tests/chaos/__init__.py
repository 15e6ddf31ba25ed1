"""Kills tale's processes at random while tasks run, and then looks whether each task was done once."""
