"""The tale command."""
