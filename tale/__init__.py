"""tale: a token-adaptive LLM executor that runs on your own machines."""

__version__ = "0.1.0"
