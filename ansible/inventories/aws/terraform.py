#!/usr/bin/env python3
"""The inventory of the hosts in Terraform's outputs, with connections through Systems Manager.

`TERRAFORM_OUTPUTS` is a file with the output of `terraform output -json`; without it, this script runs
Terraform. The inventory contains no secrets; group_vars/all.yml reads them when a task needs them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TERRAFORM = Path(__file__).resolve().parents[3] / "terraform"


def outputs() -> dict[str, Any]:
    """Return Terraform's outputs by name.

    Raises:
        OSError, subprocess.CalledProcessError: the file can't be read, or Terraform failed.
    """
    if path := os.environ.get("TERRAFORM_OUTPUTS"):
        text = Path(path).read_text()
    else:
        command = ["terraform", f"-chdir={TERRAFORM}", "output", "-json"]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {name: output["value"] for name, output in json.loads(text).items()}


def inventory(values: dict[str, Any]) -> dict[str, Any]:
    """Return groups and variables in the format of Ansible's inventory scripts."""
    groups = {"web": values["web_hosts"], "worker": values["worker_hosts"], "mlflow": [values["mlflow_host"]]}
    buckets = values["buckets"]
    variables = {
        "ansible_connection": "amazon.aws.aws_ssm",
        "ansible_aws_ssm_region": values["region"],
        "ansible_aws_ssm_bucket_name": buckets["deploy"],
        "ansible_become": True,
        "aws_region": values["region"],
        "secret_arns": values["secret_arns"],
        "site_domain": values["domain"],
        "database_host": values["database_endpoint"]["host"],
        "database_port": values["database_endpoint"]["port"],
        "redis_url": values["redis_endpoint"]["url"],
        "mlflow_address": values["mlflow_host"]["address"],
        "mlflow_artifacts": f"s3://{buckets['artifacts']}",
        "backup_bucket": f"s3://{buckets['backups']}",
        "base_log_groups": values["log_groups"],
        "site_settings": {
            "AWS_DEFAULT_REGION": values["region"],
            "DYNAMODB_TABLE": values["dynamodb_table"],
            "S3_BUCKET": buckets["datasets"],
        },
    }
    hosts_by_group = {group: {"hosts": [host["name"] for host in hosts]} for group, hosts in groups.items()}
    hostvars = {
        host["name"]: {"ansible_host": host["instance_id"]} for hosts in groups.values() for host in hosts
    }
    return hosts_by_group | {"all": {"vars": variables}, "_meta": {"hostvars": hostvars}}


if __name__ == "__main__":
    json.dump(inventory(outputs()), sys.stdout, indent=2)
