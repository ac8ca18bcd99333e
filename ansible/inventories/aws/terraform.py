#!/usr/bin/env python3
"""The inventory that Terraform's outputs describe; hosts are reached through Systems Manager.

`TERRAFORM_OUTPUTS` names a file made by `terraform output -json`; without it Terraform is asked.
Secrets are not here: group_vars/all.yml reads them where they are used.
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
        OSError, subprocess.CalledProcessError: there is no such file, or Terraform failed and said why.
    """
    if path := os.environ.get("TERRAFORM_OUTPUTS"):
        text = Path(path).read_text()
    else:
        command = ["terraform", f"-chdir={TERRAFORM}", "output", "-json"]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {name: output["value"] for name, output in json.loads(text).items()}


def inventory(found: dict[str, Any]) -> dict[str, Any]:
    """Return groups and variables as Ansible's script inventories give them."""
    groups = {"web": found["web_hosts"], "worker": found["worker_hosts"], "mlflow": [found["mlflow_host"]]}
    buckets = found["buckets"]
    variables = {
        "ansible_connection": "amazon.aws.aws_ssm",
        "ansible_aws_ssm_region": found["region"],
        "ansible_aws_ssm_bucket_name": buckets["deploy"],
        "ansible_become": True,
        "aws_region": found["region"],
        "secret_arns": found["secret_arns"],
        "site_domain": found["domain"],
        "database_host": found["database_endpoint"]["host"],
        "database_port": found["database_endpoint"]["port"],
        "redis_url": found["redis_endpoint"]["url"],
        "mlflow_address": found["mlflow_host"]["address"],
        "mlflow_artifacts": f"s3://{buckets['artifacts']}",
        "backup_bucket": f"s3://{buckets['backups']}",
        "base_log_groups": found["log_groups"],
        "site_settings": {
            "AWS_DEFAULT_REGION": found["region"],
            "DYNAMODB_TABLE": found["dynamodb_table"],
            "S3_BUCKET": buckets["datasets"],
        },
    }
    described = {group: {"hosts": [host["name"] for host in hosts]} for group, hosts in groups.items()}
    hostvars = {
        host["name"]: {"ansible_host": host["instance_id"]} for hosts in groups.values() for host in hosts
    }
    return described | {"all": {"vars": variables}, "_meta": {"hostvars": hostvars}}


if __name__ == "__main__":
    json.dump(inventory(outputs()), sys.stdout, indent=2)
