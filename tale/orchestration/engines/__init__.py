"""Task engines: one port, an adapter for each kind of queue."""
