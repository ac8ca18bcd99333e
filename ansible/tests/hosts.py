"""Debian hosts that boot systemd, each in a network namespace, connected by a bridge.

The caller has its own mount, network and process namespaces, so that everything created here ends with it.
"""

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from cache import run

BRIDGE = "10.77.0.1"


class Host:
    """A host: an overlay over the original root, an address, and a process."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address = name, address
        self.folder, self.root = folder / name, folder / name / "root"
        self.key = folder / "key"
        self.process: subprocess.Popen[bytes] | None = None

    def install(self, original: Path) -> None:
        """Mount an overlay over the original root, and create a user with the SSH key."""
        for name in ("root", "upper", "work"):
            (self.folder / name).mkdir(parents=True)
        options = f"lowerdir={original},upperdir={self.folder / 'upper'},workdir={self.folder / 'work'}"
        run("mount", "-t", "overlay", "overlay", "-o", options, self.root)
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        (self.root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] http://{BRIDGE}:8080/debs ./\n")
        run("chroot", self.root, "useradd", "--create-home", "--shell", "/bin/bash", "admin")
        (self.root / "etc/sudoers.d/admin").write_text("admin ALL=(ALL) NOPASSWD: ALL\n")
        ssh = self.root / "home/admin/.ssh"
        ssh.mkdir(mode=0o700)
        shutil.copy(self.key.with_suffix(".pub"), ssh / "authorized_keys")
        run("chroot", self.root, "chown", "-R", "admin:admin", "/home/admin")

    def power_on(self) -> None:
        """Connect the host to the bridge and boot it."""
        run("ip", "netns", "add", self.name)
        run(
            "ip", "link", "add", f"{self.name}-b", "type", "veth", "peer", "name", "host0", "netns", self.name
        )
        run("ip", "link", "set", f"{self.name}-b", "master", "bridge", "up")
        for command in ("link set lo up", "link set host0 up", f"address add {self.address}/24 dev host0"):
            run("ip", "-n", self.name, *command.split())
        with (self.folder / "console").open("ab") as console:
            self.process = subprocess.Popen(
                [
                    "sh", "-ec", 'for group in $0; do echo $$ > "$group/cgroup.procs"; done; exec "$@"',
                    " ".join(map(str, control_groups(self.name))),
                    "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--timezone=off",
                    "--resolv-conf=off", "--console=pipe", "--capability=CAP_NET_ADMIN",
                    f"--directory={self.root}", f"--network-namespace-path=/run/netns/{self.name}",
                ],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip

    def reboot(self) -> None:
        """Reboot the host over SSH; its network namespace, with firewall and addresses, is created again."""
        assert self.process is not None
        self.shell("sudo systemctl reboot", check=False)
        self.process.wait(120)
        run("ip", "link", "delete", f"{self.name}-b")
        run("ip", "netns", "delete", self.name)
        self.power_on()
        self.wait()

    def shell(self, command: str, check: bool = True, text: str = "") -> str:
        """Run a command on the host over SSH and return its output.

        Raises:
            AssertionError: the command failed and `check` is true.
        """
        options = "StrictHostKeyChecking=no UserKnownHostsFile=/dev/null LogLevel=ERROR ConnectTimeout=5"
        ssh = ["ssh", "-i", self.key, *(f"-o{option}" for option in options.split())]
        result = subprocess.run(
            [*ssh, f"admin@{self.address}", command], input=text, capture_output=True, text=True
        )
        if check and result.returncode:
            raise AssertionError(f"{self.name}: {command}: {result.stderr[-2000:]}{result.stdout[-2000:]}")
        return result.stdout

    def wait(self, seconds: float = 120) -> None:
        """Wait until systemd has started all units.

        Raises:
            AssertionError: the host does not respond in time, or a unit failed.
        """
        state, end = "", time.monotonic() + seconds
        while time.monotonic() < end:
            state = self.shell("systemctl is-system-running", check=False).strip()
            if state == "running":
                return
            time.sleep(0.5)
        failed = self.shell("systemctl --failed --no-legend --plain; systemctl list-jobs", check=False)
        raise AssertionError(f"{self.name} is {state or 'not reachable'}: {failed}")


def control_groups(name: str) -> list[Path]:
    """Create and return the control groups for the systemd of a host."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    current = dict(line.split(":")[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    groups = []
    for _, mount_point, filesystem, options, *_ in mounts:
        if filesystem == "cgroup2" or (filesystem == "cgroup" and "name=systemd" in options):
            parent = current["" if filesystem == "cgroup2" else "name=systemd"]
            groups.append(Path(f"{mount_point}{parent}", f"toxicmod-{name}"))
            groups[-1].mkdir(exist_ok=True)
    return groups


def remove_control_groups(name: str) -> None:
    """Remove the control groups of a host that has stopped."""
    for group in control_groups(name):
        for folder, *_ in os.walk(group, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)


def create_bridge() -> None:
    """Create the network of the hosts."""
    Path("/run/netns").mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "bridge", "type", "bridge")
    run("ip", "address", "add", f"{BRIDGE}/24", "dev", "bridge")
    run("ip", "link", "set", "bridge", "up")
