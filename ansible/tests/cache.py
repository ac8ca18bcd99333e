"""What the drill keeps between its runs: a Debian to boot, packages, wheels, and Ansible itself."""

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
    """Run a command quietly; its output is shown if it fails.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout[-4000:], file=sys.stderr)
        done.check_returncode()


def kept(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the cache, made anew unless it was made with the same key."""
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
    """Return the root of a Debian 12 that boots, and beside it the packages that the playbooks install."""
    return kept("debian", " ".join((*HOST, *PACKAGES, PYTHON)), _debian)


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
    # As an image that is older than a day: the first `apt update` is due.
    shutil.rmtree(root / "var/lib/apt/lists")
    (root / "var/lib/apt/lists").mkdir()
    os.utime(root / "var/lib/apt/lists", (0, 0))


def wheels() -> Path:
    """Return a folder with the packages of requirements.txt for Debian's Python."""
    here = {"python_full_version": PYTHON, "python_version": "3.11", "sys_platform": "linux"}
    lines = [
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] not in " #"
    ]
    needed = [str(want).partition(";")[0] for want in map(Requirement, lines) if _fits(want, here)]
    return kept("wheels", "\n".join(needed), lambda folder: _wheels(folder, needed))


def _fits(want: Requirement, here: dict[str, str]) -> bool:
    return want.marker is None or want.marker.evaluate(here)


def _wheels(folder: Path, needed: list[str]) -> None:
    machine = platform.machine()
    # Debian 12's C library is 2.36.
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(36, 4, -1)]
    platforms += [f"manylinux{year}_{machine}" for year in ("2014", "2010", "1")]
    # What has no wheel comes as source, for the hosts to build as they would in production.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--prefer-binary"]
    command += ["--python-version", "3.11", "--dest", str(folder), *needed]
    run(*command, *(f"--platform={name}" for name in platforms))


def ansible() -> Path:
    """Return the folder with Ansible's programs."""
    wanted = ROOT / "ansible" / "requirements.txt"
    folder = kept("ansible", wanted.read_text() + sys.version, lambda folder: _ansible(folder, wanted))
    return folder / "bin"


def _ansible(folder: Path, wanted: Path) -> None:
    # The programs name the folder they were made in.
    final = CACHE / "ansible"
    shutil.rmtree(final, ignore_errors=True)
    run(sys.executable, "-m", "venv", final)
    run(final / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted)
    (folder / "bin").symlink_to(final / "bin")
