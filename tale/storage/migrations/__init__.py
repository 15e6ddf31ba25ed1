"""Every change of the tables, in order; migrations are added, never edited."""
