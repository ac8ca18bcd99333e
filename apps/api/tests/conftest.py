"""The clients from npm, which the tests of both compatible APIs run."""

import shutil
import subprocess
from pathlib import Path

import pytest

NODE_CLIENTS = ("openai@7.59.0", "perspective-api-client@3.1.0", "googleapis@178.0.0")


@pytest.fixture(scope="session")
def node_modules(pytestconfig: pytest.Config) -> Path:
    """The folder with the Node clients, installed once and kept in pytest's cache."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("NODE CLIENTS NOT TESTED: node and npm are not installed.")
    folder = pytestconfig.cache.mkdir("node-clients")
    if not all((folder / "node_modules" / name.split("@")[0]).exists() for name in NODE_CLIENTS):
        install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
        try:
            result = subprocess.run([*install, *NODE_CLIENTS], capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            pytest.skip("NODE CLIENTS NOT TESTED: npm had not installed them within five minutes.")
        if result.returncode:
            pytest.skip(f"NODE CLIENTS NOT TESTED: npm could not install them: {result.stderr[-300:]}")
    return folder
