"""Prints `TALE_..._PORT=n` for each role, with ports that nobody listens on now."""

import socket

ROLES = ("GATEWAY", "EXECUTION", "UX_AGENT", "MODEL")


def main() -> None:
    """Hold all sockets at once, so that no port comes twice."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in ROLES]
    print(" ".join(f"TALE_{role}_PORT={held.getsockname()[1]}" for role, held in zip(ROLES, sockets, strict=True)))
    for held in sockets:
        held.close()


if __name__ == "__main__":
    main()
