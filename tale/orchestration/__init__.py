"""How tasks travel from the gateway to a model and back, and how the servers are kept alive."""
