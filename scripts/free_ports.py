"""Prints `TALE_..._PORT=n` for each role, with ports that nobody listens on now."""

import socket

ROLES = ("gateway", "execution", "ux_agent", "model", "learning")


def free_ports() -> dict[str, int]:
    """A port for each role; all sockets are held at once, so that none comes twice."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in ROLES]
    ports = {role: held.getsockname()[1] for role, held in zip(ROLES, sockets, strict=True)}
    for held in sockets:
        held.close()
    return ports


def main() -> None:
    """Print them as variables."""
    print(" ".join(f"TALE_{role.upper()}_PORT={port}" for role, port in free_ports().items()))


if __name__ == "__main__":
    main()
