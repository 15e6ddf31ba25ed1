"""Clients that others wrote, at work on a real gateway."""
