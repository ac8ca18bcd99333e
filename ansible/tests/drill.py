"""The drill: Ansible deploys three booted hosts over SSH, which are then used, updated and rebooted.

`make test-infra` calls it. It needs root and Linux namespaces, and prints a message if they are missing.
With `--interactive`, it reads the names of steps from standard input, one per line, and the hosts run until
the input ends, so that a failed step can be repeated after a change here or in the playbooks.
"""

import csv
import http.server
import importlib
import io
import json
import os
import random
import re
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cache
import hosts
import requests
import trustme
import yaml
from cache import ROOT, run
from hosts import BRIDGE, Host

NAMES = ("web", "worker", "mlflow")
DOMAIN = "moderation.example.org"
TOOLS = {
    "debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "apt-ftparchive": "apt-utils",
    "ip": "iproute2", "ssh": "openssh-client", "unshare": "util-linux", "nginx": "nginx-light",
}  # fmt: skip
SECRET = "tm_only-for-the-test-0123456789abcdef"
PASSWORD = "only-for-the-test"
MLFLOW_LOGIN = ("toxicmod", PASSWORD)
INTERACTIVE = "--interactive"
WORKER_UNITS = yaml.safe_load((ROOT / "ansible/group_vars/all.yml").read_text())["database_users"]["worker"]


# The load balancer of the site: TLS ends here, as at AWS's.
BALANCER = """
daemon off; pid {folder}/pid; error_log {folder}/errors;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen {bridge}:443 ssl;
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/certificate.pem;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto https;
        location / {{ proxy_pass http://10.77.0.2; }}
    }}
}}
"""


class Site:
    """The site behind the load balancer."""

    def __init__(self, authority: Path) -> None:
        self.cookies: dict[str, str] = {}
        self.authority = authority

    def call(
        self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any
    ) -> requests.Response:
        """Send a request to the load balancer; do not follow redirects."""
        headers = {
            "Host": DOMAIN, "Referer": f"https://{DOMAIN}{path}",
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
        } | (headers or {})  # fmt: skip
        response = requests.request(
            method, f"https://{BRIDGE}{path}", headers=headers, timeout=60, allow_redirects=False,
            verify=self.authority, **more,
        )  # fmt: skip
        self.cookies |= response.cookies.get_dict()
        return response

    def score(self, text: str = "What a stupid idiot.") -> requests.Response:
        return self.call(
            "POST", "/api/v1/predict_proba", {"Authorization": f"Api-Key {SECRET}"}, json={"text": text}
        )

    def post(self, path: str, **fields: str) -> requests.Response:
        """Submit a form of the admin like a browser."""
        page = self.call("GET", path)
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token, f"{path}: {page.status_code} {page.text[:300]}"
        return self.call("POST", path, data={"csrfmiddlewaretoken": token[1], **fields})


class Load:
    """A constant load from four clients, with the number of failed requests."""

    def __init__(self, site: Site) -> None:
        self.site, self.seconds, self.failed = site, [], []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._client) for _ in range(4)]

    def _client(self) -> None:
        # At most ten minutes.
        for _ in range(6_000):
            if self.stop.wait(0.1):
                return
            start = time.monotonic()
            try:
                status = str(self.site.score().status_code)
            except requests.RequestException as error:
                status = repr(error)
            self.seconds.append(time.monotonic() - start)
            if status != "200":
                self.failed.append(status)

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        time.sleep(2)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(2)
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def __str__(self) -> str:
        slowest = max(self.seconds)
        return f"{len(self.seconds)} requests, {len(self.failed)} failed, the slowest {slowest * 1000:.0f} ms"


class Drill:
    """The steps of the drill; each returns its result as text."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder, self.tools, self.site = folder, tools, Site(folder / "authority.pem")
        self.hosts = [Host(name, f"10.77.0.{number}", folder) for number, name in enumerate(NAMES, 2)]
        self.web, self.worker, self.mlflow = self.hosts
        self.source = folder / "source"

    def play(self, *books: str, options: tuple[str, ...] = (), fails: bool = False) -> tuple[int, str]:
        """Run playbooks over SSH; return the number of changed tasks and the output.

        Raises:
            AssertionError: a task failed, or none failed and `fails` is true.
        """
        env = os.environ | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg"),
            "ANSIBLE_PRIVATE_KEY_FILE": str(self.folder / "key"),
            "ANSIBLE_NOCOLOR": "1",
            "PATH": f"{self.tools}:{os.environ['PATH']}",
        }
        command = ["ansible-playbook", "-i", "tests/inventory.yml", "-e", f"release_repository={self.source}"]
        log = self.folder / "ansible.log"
        with log.open("w") as out:
            done = subprocess.run(
                [*command, *options, *books], cwd=ROOT / "ansible", env=env, stdout=out, stderr=out
            )
        output = log.read_text()
        assert (done.returncode != 0) == fails, f"{books}: {output[-5000:]}"
        return sum(map(int, re.findall(r"changed=(\d+)", output))), output

    def boot(self) -> str:
        """Three hosts boot."""
        start = time.monotonic()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / "key")
        run("git", "clone", "--quiet", "--shared", ROOT, self.source)
        for host in self.hosts:
            host.install(cache.debian() / "root")
            host.power_on()
        for host in self.hosts:
            host.wait()
        self.play("tests/services.yml")
        return f"{time.monotonic() - start:.0f} s with PostgreSQL and Redis"

    def deploy(self) -> str:
        """Complete deployment on new hosts."""
        start = time.monotonic()
        changed, _ = self.play("provision.yml", "deploy.yml")
        assert changed
        return f"{changed} tasks changed, {time.monotonic() - start:.0f} s"

    def repeat(self) -> str:
        """A second run changes nothing."""
        start = time.monotonic()
        changed, output = self.play("provision.yml", "deploy.yml")
        assert changed == 0, "\n".join(re.findall(r"TASK.*?\n(?=.*changed:)", output)) + output[-3000:]
        return f"changed={changed}, {time.monotonic() - start:.0f} s"

    def predict(self) -> str:
        """A prediction through nginx."""
        code = (
            "from apps.accounts import actions; from apps.accounts.models import User; "
            "from apps.core.permissions import SYSTEM; "
            "actions.create_api_key(actor=SYSTEM, name='drill', "
            f"secret='{SECRET}', rate_per_minute=100_000); "
            f"User.objects.create_superuser('admin', password='{PASSWORD}')"
        )
        self.web.shell(f'sudo toxicmod shell -v0 -c "{code}"')
        response = self.site.score()
        assert response.status_code == 200, response.text
        assert response.json()["labels"]["insult"], response.text
        assert response.elapsed.total_seconds() < 5, "the first request waited for the compiler"
        anonymous = self.site.call("POST", "/api/v1/predict", json={"text": "Hello."})
        assert anonymous.status_code == 401, anonymous.text
        return f"{response.elapsed.total_seconds() * 1000:.0f} ms; without a key: {anonymous.status_code}"

    def train(self) -> str:
        """A training run that is started in the admin, runs on the worker and is logged by MLflow."""
        start = time.monotonic()
        self.worker.shell("cat > /tmp/synthetic.csv", text=synthetic_csv(1_500))
        output = self.worker.shell("sudo toxicmod import_dataset /tmp/synthetic.csv --name synthetic")
        assert "Imported" in output, output
        self.site.post("/admin/login/", username="admin", password=PASSWORD)
        pages = self.site.call("GET", "/admin/training/trainingrun/start/").text
        dataset = re.search(r'<option value="(\d+)"', pages)
        assert dataset, pages[:500]
        started = self.site.post(
            "/admin/training/trainingrun/start/", dataset=dataset[1], recipe="two_level", seed="0"
        )
        assert started.status_code == 302, started.text[:500]
        progress = started.headers["Location"].replace("watch", "progress")
        status: dict[str, Any] = {}
        for _ in range(240):
            status = self.site.call("GET", progress).json()
            if status["status"] not in ("queued", "running"):
                break
            time.sleep(1)
        code = "from apps.training.models import TrainingRun as R; r = R.objects.get()"
        output = self.worker.shell(
            f'sudo toxicmod shell -v0 -c "{code}; print(r.status, r.mlflow_run_id, r.error)"'
        )
        state, run_id, *_ = output.split()
        assert state == "succeeded", (
            output,
            status,
            self.worker.shell("sudo journalctl -u toxicmod-trainer -n 40"),
        )
        api = "http://10.77.0.4/api/2.0/mlflow"
        anonymous = requests.get(f"{api}/runs/get", {"run_id": run_id}, timeout=60)
        assert anonymous.status_code == 401, anonymous.text
        logged = requests.get(f"{api}/runs/get", {"run_id": run_id}, auth=MLFLOW_LOGIN, timeout=60).json()[
            "run"
        ]
        files = requests.get(
            f"{api}/artifacts/list", {"run_id": run_id}, auth=MLFLOW_LOGIN, timeout=60
        ).json()["files"]
        assert files
        return (
            f"{time.monotonic() - start:.0f} s; MLflow has {len(logged['data']['metrics'])} metrics and "
            f"{len(files)} artifacts of it; without a password: {anonymous.status_code}"
        )

    def switch(self) -> str:
        """A new release under load, without a failed request."""
        before = self.release()
        settings = self.source / "toxicmod/settings.py"
        settings.write_text(settings.read_text().replace('"VERSION": "1"', '"VERSION": "2"'))
        author = ("-c", "user.name=drill", "-c", "user.email=drill@example.org")
        run(
            "git",
            "-C",
            self.source,
            *author,
            "commit",
            "--quiet",
            "--all",
            "--allow-empty",
            "--message",
            "Release 2",
        )
        start = time.monotonic()
        with Load(self.site) as load:
            self.play("deploy.yml")
        seconds = time.monotonic() - start
        assert (before, self.release()) == ("1", "2")
        assert not load.failed, load.failed[:5]
        until(self.workers_are_current)
        return f"{load}; {seconds:.0f} s"

    def release(self) -> str:
        """Return the version of the running release from the OpenAPI document."""
        return self.site.call("GET", "/api/v1/schema", {"Accept": "application/json"}).json()["info"][
            "version"
        ]

    def workers_are_current(self) -> bool:
        """Return whether all units of the worker host run the current release."""
        command = (
            "readlink -f /srv/toxicmod/current; "
            "systemctl show --property MainPID --value 'toxicmod-*' | xargs -I{} readlink /proc/{}/cwd"
        )
        current, *running = self.worker.shell(f'sudo sh -c "{command}"', check=False).split()
        return running == [current] * len(WORKER_UNITS)

    def roll_back(self) -> str:
        """Rollback to the previous release."""
        with Load(self.site) as load:
            start = time.monotonic()
            self.play("rollback.yml")
            seconds = time.monotonic() - start
        assert self.release() == "1"
        assert not load.failed, load.failed[:5]
        until(self.workers_are_current)
        assert seconds < 60, f"{seconds:.0f} s"
        return f"{seconds:.0f} s; {load}"

    def damaged(self) -> str:
        """Restores of a cut and of a missing dump fail, without a change and without a failed request."""
        self.play("backup.yml")
        folder = "/var/backups/toxicmod"
        backup = self.worker.shell(f"sudo ls {folder}").split()[-1]
        dump = "./toxicmod.dump"
        damages = {
            "cut": f"truncate --size=$(($(stat --format=%s {dump}) * 45 / 100)) {dump}",
            "missing": f"rm {dump}",
        }
        before = self.rows()
        with Load(self.site) as load:
            for name, damage in damages.items():
                copy = f"cp -a {folder}/{backup} {folder}/{name} && cd {folder}/{name} && {damage}"
                self.worker.shell(f"sudo sh -c '{copy}'")
                _, output = self.play("restore.yml", options=("-e", f"backup={name}"), fails=True)
                assert "The live database toxicmod was not changed." in output, output[-3000:]
                self.worker.shell(f"sudo rm -r {folder}/{name}")
        assert not load.failed, load.failed[:5]
        assert self.rows() == before + len(load.seconds)
        return f"{', '.join(damages)}; {load}"

    def restore(self) -> str:
        """Backup, restore into scratch databases, and restore, with equal row counts."""
        start = time.monotonic()
        before = self.rows()
        self.play("backup.yml")
        assert self.site.score("Thanks, that was after the backup.").status_code == 200
        after = self.rows()
        assert after == before + 1
        _, drill = self.play("restore.yml", options=("-e", "drill=true"))
        assert self.rows() == after
        _, real = self.play("restore.yml")
        assert self.rows() == before
        counted = re.findall(r"(\w+: \d+ tables, \d+ rows), as in the backup", drill)
        assert counted == re.findall(r"(\w+: \d+ tables, \d+ rows), as in the backup", real) != []
        assert self.site.score().status_code == 200
        return f"{'; '.join(counted)}; {time.monotonic() - start:.0f} s"

    def rows(self) -> int:
        code = "from apps.predictions.models import Prediction; print(Prediction.objects.count())"
        return int(self.web.shell(f'sudo toxicmod shell -v0 -c "{code}"').split()[-1])

    def reboot(self) -> str:
        """Reboot of all hosts; all units start again."""
        start = time.monotonic()
        for host in (self.mlflow, self.web, self.worker):
            host.reboot()
        for host, expected in ((self.web, 1), (self.worker, len(WORKER_UNITS))):
            units = "systemctl list-units --no-legend --plain --state=running 'toxicmod-*.service' | wc -l"
            assert int(host.shell(units)) == expected, host.shell("systemctl list-units --all 'toxicmod-*'")
        assert self.site.score().status_code == 200
        ping = "from toxicmod import celery_app; print(celery_app.control.ping(timeout=5))"
        shell = f'sudo toxicmod shell -v0 -c "{ping}"'
        until(lambda: self.worker.shell(shell).count("pong") == len(WORKER_UNITS) - 1)  # without beat
        until(lambda: requests.get("http://10.77.0.4/health", auth=MLFLOW_LOGIN, timeout=60).ok)
        rules = [host.shell("sudo nft list ruleset") for host in self.hosts]
        assert all("policy drop" in text for text in rules), rules
        return f"3 hosts in turn, {time.monotonic() - start:.0f} s"

    def lint(self) -> str:
        """ansible-lint with the production profile."""
        env = os.environ | {"PATH": f"{self.tools}:{os.environ['PATH']}", "NO_COLOR": "1"}
        done = subprocess.run(["ansible-lint"], cwd=ROOT / "ansible", env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        return next(line for line in reversed(done.stderr.splitlines()) if "Passed" in line)

    def inventories(self) -> str:
        """The inventories of Terraform's outputs and of the example have all hosts."""
        env = os.environ | {"TERRAFORM_OUTPUTS": str(ROOT / "ansible/tests/outputs.json")}
        counts = {}
        for name in ("aws/terraform.py", "example/hosts.yml"):
            output = subprocess.run(
                [self.tools / "ansible-inventory", "-i", ROOT / "ansible/inventories" / name, "--list"],
                cwd=ROOT / "ansible", env=env, check=True, stdout=subprocess.PIPE,
            ).stdout  # fmt: skip
            groups = json.loads(output)
            counts[name] = sum(len(groups[group]["hosts"]) for group in ("web", "worker", "mlflow"))
        return ", ".join(f"{name}: {count} hosts" for name, count in counts.items())


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition is true.

    Raises:
        AssertionError: it is not true in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(1)


def synthetic_csv(count: int) -> str:
    """Return comments as a CSV file for `import_dataset`; each label has a word that occurs only with it."""
    labels = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
    words = ("stupid", "vile", "damn", "kill", "idiot", "foreigners")
    neutral = ("the", "page", "was", "changed", "last", "week", "and", "reads", "well", "to", "me", "thanks")
    generator, text = random.Random(0), io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", "comment_text", *labels])
    for number in range(count):
        flags = [int(generator.random() < 0.15) for _ in words]
        comment = generator.choices(neutral, k=8) + [
            word for word, flag in zip(words, flags, strict=True) if flag
        ]
        generator.shuffle(comment)
        writer.writerow([number, f"{' '.join(comment)} {number}", *flags])
    return text.getvalue()


def serve(folder: Path) -> None:
    """Serve packages and wheels to the hosts, which have no other network."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

    folder.mkdir()
    (folder / "debs").symlink_to(cache.debian() / "debs")
    (folder / "wheels").symlink_to(cache.wheels())
    server = Server((BRIDGE, 8080), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()


def balance(folder: Path) -> None:
    """Start the load balancer, with a certificate of an authority that the drill trusts."""
    balancer, authority = folder / "balancer", trustme.CA()
    balancer.mkdir()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    authority.issue_cert(BRIDGE, DOMAIN).private_key_and_cert_chain_pem.write_to_path(
        balancer / "certificate.pem"
    )
    configuration = balancer / "nginx.conf"
    configuration.write_text(BALANCER.format(folder=balancer, bridge=BRIDGE))
    subprocess.Popen(["nginx", "-p", balancer, "-c", configuration])


def steps(drill: Drill) -> list[Callable[[], str]]:
    return [
        drill.lint, drill.inventories, drill.boot, drill.deploy, drill.repeat, drill.predict, drill.train,
        drill.switch, drill.roll_back, drill.damaged, drill.restore, drill.reboot,
    ]  # fmt: skip


def passes(step: Callable[[], str]) -> bool:
    """Run a step and print its result; return whether it passed."""
    title = (step.__doc__ or "").rstrip(".")
    try:
        print(f"ok    {title}: {step()}", flush=True)
    except Exception as error:  # any exception is a failure of this step
        print(f"FAIL  {title}: {error!r}"[:8000].replace("\\n", "\n"), flush=True)
        return False
    return True


def run_interactively(drill: Drill) -> int:
    """Run the steps named on standard input; reload this module before each of them. Return 0."""
    for line in sys.stdin:
        module = importlib.reload(importlib.import_module(Path(__file__).stem))
        drill.__class__, drill.site.__class__ = module.Drill, module.Site
        for step in steps(drill):
            if step.__name__ == line.strip():
                passes(step)
    return 0


def run_in_namespaces(folder: Path) -> int:
    """Run the drill in the current namespaces; return 0 if all steps pass."""
    hosts.create_bridge()
    serve(folder / "served")
    balance(folder)
    drill = Drill(folder, cache.ansible())
    if INTERACTIVE in sys.argv:
        return run_interactively(drill)
    passed, start = 0, time.monotonic()
    for step in steps(drill):
        if not passes(step):
            break
        passed += 1
    failed = int(passed < len(steps(drill)))
    print(f"In {time.monotonic() - start:.0f} s.\nansible: {passed} passed, {failed} failed")
    return failed


def missing_requirement() -> str:
    """Install the tools of the drill; return what is still missing, or an empty string."""
    if os.geteuid() != 0:
        return "you are not root"
    packages = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if packages and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], stdout=subprocess.DEVNULL)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
            stdout=subprocess.DEVNULL,
        )
    if tools := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"there is no {', '.join(tools)}"
    if subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"]).returncode:
        return "this machine can't create namespaces"
    return ""


def main() -> int:
    if reason := missing_requirement():
        print(f"ANSIBLE IS NOT TESTED: {reason}.")
        return 0
    for make in (cache.debian, cache.wheels, cache.ansible):
        make()
    (cache.CACHE / "hosts").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.CACHE / "hosts") as folder:
        unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        try:
            return subprocess.run([*unshare, sys.executable, __file__, folder, *sys.argv[1:]]).returncode
        finally:
            for name in NAMES:
                hosts.remove_control_groups(name)


if __name__ == "__main__":
    sys.exit(main() if sys.argv[1:] in ([], [INTERACTIVE]) else run_in_namespaces(Path(sys.argv[1])))
