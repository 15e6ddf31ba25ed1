"""The servers and the one place where they are wired."""
