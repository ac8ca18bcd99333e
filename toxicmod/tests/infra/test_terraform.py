"""Terraform: formatted, valid, holding its rules, scanned, and applied against an AWS on this machine.

`make test-infra` runs these. Terraform and the AWS provider come from this machine or from the registry;
where there is neither the tests are skipped.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import trustme

from toxicmod.tests.infra import aws

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "terraform"
SCANNER = ROOT / ".venv/infra/bin/checkov"
STATE_BUCKET = "example-terraform-state"
# The AWS that is played speaks of itself by path, and has images of its own.
PLAYED = 'provider "aws" {\n  s3_use_path_style = true\n}\n'
IMAGE = '-var=image={owner="amazon",name="amzn2-ami-hvm-2*"}'


NONSENSE = {
    "environment": "testing",
    "region": "Frankfurt",
    "domain": "Moderation",
    "certificate_arn": "certificate",
    "alarm_email": "operations",
    "cidr": "10.60.0.0/24",
    "nat_gateways": "3",
    "image": '{owner="136693071363",name="*"}',
    "web": '{count=0,type="c6i.large",disk=30}',
    "worker": '{count=1,type="t3.large",disk=5}',
    "mlflow": '{type="t3.medium",disk=5}',
    "cache": '{type="t4g.small",nodes=3}',
    "log_days": "2",
    "monthly_budget": "0",
}


class Terraform:
    """Terraform in a folder of its own, with a copy of the files.

    Attributes:
        folder: the copy.
        environment: the environment variables it runs with.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns(".terraform", "*.tfstate*"))
        self.folder = folder
        self.environment = environment

    def run(self, *arguments: str, expect: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        """Run Terraform; fail with its output if its exit code is not the expected one."""
        result = subprocess.run(
            ["terraform", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1200,
        )
        assert result.returncode in expect, result.stdout
        return result


def _provider_mirror() -> Path | None:
    """Return the folder on this machine that holds the AWS provider by its registry's host, if any."""
    elsewhere = [
        word for name in ("proc", "sys", "site-packages", "node_modules") for word in ("-o", "-name", name)
    ]
    command = ["find", "/", "-xdev", "(", *elsewhere[1:], ")", "-prune", "-o"]
    command += ["-type", "f", "-name", "terraform-provider-aws_*", "-print"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for path in map(Path, result.stdout.split()):
        for folder in path.parents:
            if folder.name.startswith("registry."):
                return folder.parent
    return None


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What Terraform is run with: no account, and the provider of this machine where it has one."""
    if shutil.which("terraform") is None:
        pytest.skip("NO TERRAFORM TEST RAN: there is no `terraform` here (1.11 or newer)")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))}
    variables |= {
        "CHECKPOINT_DISABLE": "1",
        "TF_IN_AUTOMATION": "1",
        "TF_CLI_ARGS": "-no-color",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "eu-central-1",
    }
    if mirror := _provider_mirror():
        config = tmp_path_factory.mktemp("terraform") / "config.tfrc"
        config.write_text(f'provider_installation {{ filesystem_mirror {{ path = "{mirror}" }} }}\n')
        variables["TF_CLI_CONFIG_FILE"] = str(config)
    return variables


@pytest.fixture(scope="session")
def terraform(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Terraform without a state."""
    terraform = Terraform(tmp_path_factory.mktemp("plain") / "terraform", environment)
    result = terraform.run("init", "-input=false", "-backend=false", expect=(0, 1))
    if result.returncode:
        pytest.skip(f"NO TERRAFORM TEST RAN: the AWS provider can't be installed here.\n{result.stdout}")
    return terraform


@pytest.fixture(scope="session")
def cloud(
    terraform: Terraform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Terraform, list[str]]]:
    """Terraform with its state in the AWS that is played, and the arguments for a staging stack."""
    with aws.serve() as url:
        played = Terraform(
            tmp_path_factory.mktemp("cloud") / "terraform", terraform.environment | {"AWS_ENDPOINT_URL": url}
        )
        (played.folder / "provider_override.tf").write_text(PLAYED)
        location = {"LocationConstraint": "eu-central-1"}
        _client("s3", url).create_bucket(Bucket=STATE_BUCKET, CreateBucketConfiguration=location)
        issued = trustme.CA().issue_cert("staging.moderation.example.org")
        certificate = _client("acm", url).import_certificate(
            Certificate=issued.cert_chain_pems[0].bytes(), PrivateKey=issued.private_key_pem.bytes()
        )["CertificateArn"]
        played.run(
            "init",
            "-input=false",
            "-backend-config=environments/staging.s3.tfbackend",
            "-backend-config=use_path_style=true",
        )
        yield (
            played,
            [
                "-input=false",
                "-parallelism=30",
                "-var-file=environments/staging.tfvars",
                f"-var=certificate_arn={certificate}",
                IMAGE,
            ],
        )


def _client(service: str, url: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="eu-central-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def test_terraform_files_are_formatted(terraform: Terraform) -> None:
    terraform.run("fmt", "-check", "-diff", "-recursive")


def test_terraform_files_are_valid(terraform: Terraform) -> None:
    assert "The configuration is valid" in terraform.run("validate").stdout


def test_terraform_tests_pass(terraform: Terraform) -> None:
    assert ", 0 failed" in terraform.run("test").stdout


def test_variables_reject_invalid_values(cloud: tuple[Terraform, list[str]]) -> None:
    terraform, arguments = cloud
    nonsense = [f"-var={name}={value}" for name, value in NONSENSE.items()]
    output = terraform.run("plan", "-lock=false", *arguments, *nonsense, expect=(1,)).stdout
    assert output.count("Invalid value for variable") == len(NONSENSE)
    risky = ["-var-file=environments/production.tfvars", "-var=protected=false"]
    output = terraform.run("plan", "-lock=false", *arguments, *risky, expect=(1,)).stdout
    assert output.count("Invalid value for variable") == 1


def test_scanner_reports_no_unexplained_finding() -> None:
    if not SCANNER.exists():
        pytest.skip("NO SCAN RAN: checkov is not installed (`make .venv/infra`)")
    result = subprocess.run(
        [SCANNER, "-d", SOURCE, "--config-file", SOURCE / ".checkov.yaml", "-o", "json", "--var-file",
         SOURCE / "environments/production.tfvars"],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    report = json.loads(result.stdout)
    failed = [f"{check['check_id']} {check['resource']}" for check in report["results"]["failed_checks"]]
    assert not failed
    assert report["summary"]["passed"] > 200


def test_stack_is_applied_monitored_and_destroyed(cloud: tuple[Terraform, list[str]]) -> None:
    terraform, arguments = cloud
    url = terraform.environment["AWS_ENDPOINT_URL"]
    terraform.run("apply", "-auto-approve", *arguments)
    assert "No changes" in terraform.run("plan", "-detailed-exitcode", *arguments).stdout

    output = {name: out["value"] for name, out in json.loads(terraform.run("output", "-json").stdout).items()}
    assert [host["name"] for host in output["web_hosts"]] == ["toxicmod-staging-web-1"]
    _assert_nothing_secret_in_the_state(url, output["secret_arns"])
    table = _client("dynamodb", url).describe_table(TableName=output["dynamodb_table"])["Table"]
    assert [index["IndexName"] for index in table["GlobalSecondaryIndexes"]] == ["by_time"]

    # Somebody changes things by hand.
    ec2 = _client("ec2", url)
    group = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["toxicmod-staging-web"]}])
    ec2.delete_tags(Resources=[group["SecurityGroups"][0]["GroupId"]], Tags=[{"Key": "Name"}])
    _client("s3", url).put_bucket_versioning(
        Bucket=output["buckets"]["artifacts"], VersioningConfiguration={"Status": "Suspended"}
    )
    drift = terraform.run("plan", "-detailed-exitcode", *arguments, expect=(2,)).stdout
    assert 'aws_s3_bucket_versioning.this["artifacts"] will be updated' in drift
    assert "Plan: 0 to add, 2 to change, 0 to destroy" in drift

    terraform.run("destroy", "-auto-approve", *arguments)
    assert terraform.run("state", "list").stdout.strip() == ""
    assert not _client("ec2", url).describe_instances(
        Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    )["Reservations"]
    assert [bucket["Name"] for bucket in _client("s3", url).list_buckets()["Buckets"]] == [STATE_BUCKET]


def _assert_nothing_secret_in_the_state(url: str, secrets: dict[str, str]) -> None:
    """The values are in Secrets Manager, long and different, and not in the state."""
    state = _client("s3", url).get_object(Bucket=STATE_BUCKET, Key="toxicmod/staging.tfstate")["Body"].read()
    reader = _client("secretsmanager", url)
    values = [
        reader.get_secret_value(SecretId=arn)["SecretString"]
        for use, arn in secrets.items()
        if use != "database_admin"
    ]
    assert len(set(values)) == 4
    assert all(len(value) == 64 and value.encode() not in state for value in values)
