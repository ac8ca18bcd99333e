"""Ansible's restore with a real PostgreSQL: only a complete backup changes the live database."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from toxicmod.testing import servers
from toxicmod.testing.site import ROOT

pytestmark = pytest.mark.slow
ROLE = ROOT / "ansible" / "roles" / "database"
TABLES = {"comment": 2_000, "decision": 300, "policy": 1}


class Cluster:
    """A PostgreSQL with a live database, its owner, an administrator and a backup."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.options = conninfo_to_dict(url)
        with self.connect("postgres") as connection:
            row = connection.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchone()
            assert row
            self.programs = row[0]
            connection.execute("DROP DATABASE IF EXISTS live")
            connection.execute("DROP DATABASE IF EXISTS live_restore")
            for name in self.previous():
                connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
            for role, options in (("live_owner", ""), ("live_admin", "CREATEDB")):
                connection.execute(f"DROP ROLE IF EXISTS {role}")
                connection.execute(f"CREATE ROLE {role} LOGIN {options}")
            connection.execute("GRANT live_owner TO live_admin")
            connection.execute("CREATE DATABASE live OWNER live_owner")
        with self.connect("live", "live_owner") as connection:
            for table, rows in TABLES.items():
                connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, text text)")
                connection.execute(
                    f"INSERT INTO {table} SELECT n, md5(n::text) || md5((n + 1)::text)"
                    f" FROM generate_series(1, {rows}) n"
                )

    def connect(self, database: str, user: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(make_conninfo(self.url, dbname=database, user=user), autocommit=True)

    def previous(self) -> list[str]:
        query = "SELECT datname FROM pg_database WHERE datname LIKE 'live_before_%'"
        with self.connect("postgres") as connection:
            return [name for (name,) in connection.execute(query)]

    def rows(self, database: str = "live") -> dict[str, int]:
        tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        with self.connect(database) as connection:
            return {
                table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for (table,) in connection.execute(tables).fetchall()
            }

    def environment(self, user: str) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "PGHOST": str(self.options["host"]),
            "PGPORT": str(self.options.get("port", 5432)),
            "PGUSER": user,
            "PGDATABASE": "live",
            "OWNER": "live_owner",
            "OWNER_PASSWORD": "",
            "FOLDER": str(self.folder),
            "COUNTS": str(ROLE / "files" / "counts.sql"),
        }

    def back_up(self) -> None:
        """Back up the database as `backup.yml` does, with its template."""
        template = (ROLE / "templates" / "dump.sql.j2").read_text()
        include = '{{ lookup("ansible.builtin.file", "counts.sql") }}'
        assert include in template
        script = template.replace(include, (ROLE / "files" / "counts.sql").read_text())
        command = (
            "psql --no-psqlrc --quiet --no-align --tuples-only --set ON_ERROR_STOP=1 --file - > live.counts"
        )
        subprocess.run(
            ["bash", "-euc", command],
            input=script,
            text=True,
            cwd=self.folder,
            env=self.environment("live_owner"),
            check=True,
        )

    def run(self, action: str) -> subprocess.CompletedProcess[str]:
        command = [ROLE / "files" / "restore_database.sh", action, "live"]
        return subprocess.run(command, env=self.environment("live_admin"), capture_output=True, text=True)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with servers.postgres() as url:
        yield url


@pytest.fixture
def cluster(server: str, tmp_path: Path) -> Cluster:
    cluster = Cluster(server, tmp_path)
    cluster.back_up()
    # Changes since the backup. Only a successful restore discards them.
    with cluster.connect("live", "live_owner") as connection:
        connection.execute("INSERT INTO policy VALUES (2, 'written after the backup')")
        connection.execute("DELETE FROM comment WHERE id <= 1000")
    return cluster


LIVE = {"comment": 1_000, "decision": 300, "policy": 2}


def test_whole_backup_is_restored_and_previous_database_kept(cluster: Cluster) -> None:
    prepared = cluster.run("prepare")
    assert prepared.returncode == 0, prepared.stderr
    assert prepared.stdout == "live: 3 tables, 2301 rows, as in the backup\n"
    assert cluster.rows() == LIVE
    with cluster.connect("live", "live_owner"):  # the swap ends open sessions
        swapped = cluster.run("swap")
    assert swapped.returncode == 0, swapped.stderr
    assert cluster.rows() == TABLES
    (previous,) = cluster.previous()
    assert previous in swapped.stdout
    assert cluster.rows(previous) == LIVE
    with cluster.connect("live", "live_owner") as connection:
        connection.execute("CREATE TABLE new (id int)")  # the owner owns the restored tables
        connection.execute("ALTER TABLE comment ADD COLUMN more int")


def test_discard_removes_prepared_database(cluster: Cluster) -> None:
    assert cluster.run("prepare").returncode == 0
    assert cluster.run("discard").returncode == 0
    assert cluster.run("swap").returncode == 1
    assert cluster.rows() == LIVE
    assert not cluster.previous()


def _cut(dump: Path, share: float) -> None:
    content = dump.read_bytes()
    dump.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    "damage",
    [
        "cut at 10%",
        "cut at 45%",
        "cut at 90%",
        "missing",
        "empty",
        "text",
        "other rows",
        "no counts",
        "disk full",
    ],
)
def test_damaged_backup_changes_nothing(cluster: Cluster, damage: str) -> None:
    dump, counts = cluster.folder / "live.dump", cluster.folder / "live.counts"
    if damage.startswith("cut"):
        _cut(dump, int(damage.removeprefix("cut at ").removesuffix("%")) / 100)
    elif damage == "missing":
        dump.unlink()
    elif damage == "empty":
        dump.write_bytes(b"")
    elif damage == "text":
        dump.write_text("DROP TABLE comment;\n")
    elif damage == "other rows":
        counts.write_text(counts.read_text().replace("2000", "2001"))
    elif damage == "no counts":
        counts.unlink()
    else:  # pg_restore writes only a part, as on a full disk
        program = cluster.folder / "bin" / "pg_restore"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\n{cluster.programs}/pg_restore --schema-only "$@"\nexit 1\n')
        program.chmod(0o755)
        cluster.programs = f"{program.parent}:{cluster.programs}"
    result = cluster.run("prepare")
    assert result.returncode == 1
    assert "The live database live was not changed." in result.stderr
    assert cluster.run("swap").returncode == 1
    assert cluster.rows() == LIVE
    assert not cluster.previous()
    with cluster.connect("postgres") as connection:
        query = "SELECT count(*) FROM pg_database WHERE datname = 'live_restore'"
        assert connection.execute(query).fetchone() == (0,)


def test_scratch_database_that_changed_is_not_swapped(cluster: Cluster) -> None:
    assert cluster.run("prepare").returncode == 0
    with cluster.connect("live_restore", "live_owner") as connection:
        connection.execute("DELETE FROM decision")
    assert cluster.run("swap").returncode == 1
    assert cluster.rows() == LIVE


def test_failed_dump_is_not_renamed(cluster: Cluster) -> None:
    (cluster.folder / "live.dump").unlink()
    program = cluster.folder / "bin" / "pg_dump"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho incomplete > "$PGDATABASE.part"\nexit 1\n')
    program.chmod(0o755)
    cluster.programs = f"{program.parent}:{cluster.programs}"
    cluster.back_up()
    assert not (cluster.folder / "live.dump").exists()


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_script_passes_shellcheck() -> None:
    subprocess.run(["shellcheck", ROLE / "files" / "restore_database.sh"], check=True)
