"""The history as frames, and what they amount to: `from tale import analytics, figures`."""

from tale.analytics.history import History, open_history

__all__ = ["History", "open_history"]
