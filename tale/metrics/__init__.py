"""What is measured of every call, and how it reaches the database."""
