"""The models: backends, the catalogue of embedded ones, and the pool every call passes through."""
