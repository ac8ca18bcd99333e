"""The image: buildah builds it, and it runs as an ordinary user with a read-only file system.

The test creates the base, a Debian, with debootstrap and downloads the wheels with pip. It needs root,
buildah and debootstrap, and is skipped without them.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BASE = "localhost/toxicmod-base"
IMAGE = "localhost/toxicmod"
USER = 10001


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self.storage = [f"--root={folder / 'store'}", f"--runroot={folder / 'run'}", "--storage-driver=vfs"]

    def __call__(self, *arguments: str) -> str:
        """Run a command and return its output; fail with the output and the errors."""
        command = ["buildah", *self.storage, *arguments]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout.strip()


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian with Python, in a folder."""
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(
            f"NO CONTAINER TEST RAN: root, buildah and debootstrap are needed; missing: {missing or 'root'}"
        )
    folder = tmp_path_factory.mktemp("debian")
    packages = "ca-certificates,python3,python3-venv"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", folder],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return folder


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of requirements.txt; Debian's older Python needs one more."""
    folder = tmp_path_factory.mktemp("wheels")
    wanted = ["-r", str(ROOT / "requirements.txt"), "async-timeout"]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "-d", folder, *wanted], check=True)
    return folder


@pytest.fixture(scope="session")
def image(
    debian: Path, wheels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict]]:
    """The root folder of the image, read-only except /data and /tmp, and the image's settings."""
    folder = tmp_path_factory.mktemp("buildah")
    buildah = Buildah(folder)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(debian), "/")
    buildah("commit", "--quiet", "--rm", container, BASE)
    offline = [
        "--build-arg=PIP_NO_INDEX=1",
        "--build-arg=PIP_FIND_LINKS=/wheels",
        f"--volume={wheels}:/wheels:ro",
    ]
    settings = ["--isolation=chroot", "--pull-never", f"--build-arg=BASE={BASE}", "--format=docker"]
    buildah("bud", *settings, *offline, "--tag", IMAGE, ".")
    described = json.loads(buildah("inspect", "--type=image", IMAGE))["Docker"]["config"]
    root = Path(buildah("mount", buildah("from", "--pull-never", IMAGE)))
    mounts = [["--bind", root, root], ["-o", "remount,bind,ro", root]]
    mounts += [["-t", "tmpfs", "tmpfs", root / path] for path in ("data", "tmp")]
    mounts += [["--bind", f"/{path}", root / path] for path in ("dev", "proc")]
    for mount in mounts:
        subprocess.run(["mount", *map(str, mount)], check=True)
    os.chown(root / "data", USER, USER)
    yield root, described
    for path in ("proc", "dev", "tmp", "data", ""):
        subprocess.run(["umount", "--lazy", str(root / path)], check=True)


def _run(image: tuple[Path, dict], command: list[str], **environment: str) -> list[str]:
    """Return a command that runs `command` in the image, as its user and with its environment only."""
    root, described = image
    variables = [*described["Env"], *(f"{name}={value}" for name, value in environment.items())]
    inside = ["sh", "-c", 'cd "$0" && exec "$@"', described["WorkingDir"], *command]
    user = described["User"]
    return ["env", "-i", *variables, "chroot", f"--userspec={user}:{user}", str(root), *inside]


def test_image_runs_as_one_user_and_reports_health(image: tuple[Path, dict]) -> None:
    root, described = image
    assert described["User"] == str(USER)
    assert described["Healthcheck"]["Test"][0] == "CMD"
    assert not list((root / "srv/toxicmod").rglob("tests"))
    command = _run(
        image,
        ["sh", "-c", "id -u; touch /srv/toxicmod/x /opt/venv/x || touch /tmp/x /data/x && echo read-only"],
    )
    assert subprocess.run(command, capture_output=True, text=True).stdout.split() == [str(USER), "read-only"]


def test_container_responds_to_predict(image: tuple[Path, dict]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    for arguments in (
        ["migrate", "-v0"],
        ["install_base_model"],
        ["create_roles"],
        ["install_default_policy"],
    ):
        subprocess.run(
            _run(image, ["python", "manage.py", *arguments]), check=True, stdout=subprocess.DEVNULL
        )
    settings = {"PORT": port, "HOST": "127.0.0.1", "WEB_CONCURRENCY": "1"}
    healthy = _run(image, image[1]["Healthcheck"]["Test"][1:], **settings)
    with subprocess.Popen(_run(image, image[1]["Cmd"], **settings), stderr=subprocess.DEVNULL) as site:
        try:
            for _ in range(120):
                if subprocess.run(healthy, stderr=subprocess.DEVNULL).returncode == 0:
                    break
                time.sleep(1)
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/api/v1/predict_proba",
                json.dumps({"text": "You are a stupid idiot."}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=30) as response:
                assert json.load(response)["labels"]["toxic"] is True
        finally:
            site.terminate()


@pytest.mark.parametrize(
    "command",
    [
        ["celery", "-A", "toxicmod", "worker", "--help"],
        ["celery", "-A", "toxicmod", "beat", "--help"],
        ["mlflow", "server", "--help"],
    ],
    ids=["worker", "beat", "mlflow"],
)
def test_image_runs_worker_beat_and_mlflow(image: tuple[Path, dict], command: list[str]) -> None:
    assert subprocess.run(_run(image, command), stdout=subprocess.DEVNULL).returncode == 0
