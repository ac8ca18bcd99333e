"""The whole learning loop on real servers: PostgreSQL, a Redis-protocol broker, MLflow, S3, gunicorn."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from toxicmod.testing.servers import MLflow, bucket, postgres, redis
from toxicmod.testing.site import ROOT, site


@pytest.mark.slow
def test_learning_loop_improves_the_model(tmp_path: Path) -> None:
    with postgres() as database, redis() as broker, bucket("mlflow") as s3:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("CREATE DATABASE mlflow")
        records = urlsplit(database)._replace(path="/mlflow").geturl()
        mlflow = MLflow(tmp_path, records, "s3://mlflow", s3)
        environment = s3 | {
            "DATABASE_URL": database,
            "REDIS_URL": broker,
            "MLFLOW_TRACKING_URI": mlflow.url,
            "MLFLOW_TRACKING_USERNAME": mlflow.USER,
            "MLFLOW_TRACKING_PASSWORD": mlflow.PASSWORD,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "SHADOW_SHARE": "1",
            "TRAIN_AFTER_LABELS": "200",
            "WEB_CONCURRENCY": "1",
        }
        with site(tmp_path / "data", **environment) as (url, env):
            env |= {"SITE_URL": url, "DJANGO_SETTINGS_MODULE": "toxicmod.settings"}
            command = ["-m", "celery", "-q", "-A", "toxicmod", "worker", "-l", "WARNING", "-c", "1"]
            log = (tmp_path / "worker.log").open("w")
            worker = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
            )
            driver = subprocess.Popen(
                [sys.executable, "-m", "toxicmod.testing.loop"],
                cwd=ROOT,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            try:
                output = []
                assert driver.stdin is not None
                assert driver.stdout is not None
                for line in driver.stdout:
                    output.append(line)
                    if line == "MLFLOW\n":
                        mlflow.start()
                        mlflow.wait()
                        driver.stdin.write("up\n")
                        driver.stdin.flush()
                print("".join(output))
                assert driver.wait() == 0, "".join(output) + (tmp_path / "worker.log").read_text()[-3000:]
            finally:
                driver.kill()
                driver.communicate()
                mlflow.stop()
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
                log.close()
