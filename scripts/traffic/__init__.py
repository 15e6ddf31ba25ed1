"""A played day: an engine that keeps books, people who make traffic, and the books that have to agree."""
