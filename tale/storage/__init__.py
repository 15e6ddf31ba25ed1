"""The database: one engine, one writer, and a store for each kind of row."""
