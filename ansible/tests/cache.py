"""The cache of the drill: a bootable Debian, Debian packages, wheels, and Ansible."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "toxicmod-infra")
HOST = (
    "python3", "openssh-server", "systemd-sysv", "dbus", "iproute2", "ca-certificates", "sudo", "python3-apt",
)  # fmt: skip
PACKAGES = (
    "nftables", "unattended-upgrades", "nginx-light", "python3-venv", "libgomp1", "postgresql-client",
    "postgresql", "openssl", "redis-server",
)  # fmt: skip
PYTHON = "3.11.2"  # Debian 12's


def run(*command: str | Path) -> None:
    """Run a command; print its output only if it fails.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        print(result.stdout[-4000:], file=sys.stderr)
        result.check_returncode()


def cached(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the cache; create it unless it exists with the same key."""
    folder = CACHE / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not folder.exists():
        for old in CACHE.glob(f"{name}-*"):
            shutil.rmtree(old)
        print(f"making {folder} ...", flush=True)
        part = CACHE / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        make(part)
        part.rename(folder)
    return folder


def debian() -> Path:
    """Return the folder with the root of a bootable Debian 12, and the packages of the playbooks."""
    return cached("debian", " ".join((*HOST, *PACKAGES, PYTHON)), _debian)


def _debian(folder: Path) -> None:
    root = folder / "root"
    run("debootstrap", "--variant=minbase", f"--include={','.join(HOST)}", "bookworm", root)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    run(
        "chroot", root, "apt-get", "install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES
    )
    debs = folder / "debs"
    debs.mkdir()
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.rename(debs / package.name)
    index = subprocess.run(
        ["apt-ftparchive", "packages", "."], cwd=debs, check=True, stdout=subprocess.PIPE
    ).stdout
    (debs / "Packages").write_bytes(index)
    # As in an image that is older than a day, so that the playbooks have to run `apt update`.
    shutil.rmtree(root / "var/lib/apt/lists")
    (root / "var/lib/apt/lists").mkdir()
    os.utime(root / "var/lib/apt/lists", (0, 0))


def wheels() -> Path:
    """Return a folder with the packages of requirements.txt for the Python of Debian."""
    environment = {"python_full_version": PYTHON, "python_version": "3.11", "sys_platform": "linux"}
    lines = [
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] not in " #"
    ]
    packages = [
        str(requirement).partition(";")[0]
        for requirement in map(Requirement, lines)
        if _applies(requirement, environment)
    ]
    return cached("wheels", "\n".join(packages), lambda folder: _download(folder, packages))


def _applies(requirement: Requirement, environment: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment)


def _download(folder: Path, packages: list[str]) -> None:
    machine = platform.machine()
    # Debian 12's C library is 2.36.
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(36, 4, -1)]
    platforms += [f"manylinux{year}_{machine}" for year in ("2014", "2010", "1")]
    # Packages without a wheel are downloaded as source; the hosts build them as in production.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--prefer-binary"]
    command += ["--python-version", "3.11", "--dest", str(folder), *packages]
    run(*command, *(f"--platform={name}" for name in platforms))


def ansible() -> Path:
    """Return the folder with Ansible's programs."""
    requirements = ROOT / "ansible" / "requirements.txt"
    folder = cached(
        "ansible", requirements.read_text() + sys.version, lambda folder: _ansible(folder, requirements)
    )
    return folder / "bin"


def _ansible(folder: Path, requirements: Path) -> None:
    # The programs contain the path of the folder in which they were installed.
    final = CACHE / "ansible"
    shutil.rmtree(final, ignore_errors=True)
    run(sys.executable, "-m", "venv", final)
    run(final / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
    (folder / "bin").symlink_to(final / "bin")
