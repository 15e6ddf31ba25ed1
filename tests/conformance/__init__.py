"""What the protocol's official conformance suite wants to find: a server with its fixtures, and a client that acts."""
