"""Calls made up from the OpenAPI document (schemathesis): no 500, and only answers that it describes."""

import subprocess
import sys
from pathlib import Path

import pytest
import requests
from pytest_django.live_server_helper import LiveServer

from apps.accounts.actions import create_api_key
from apps.accounts.models import User
from apps.core.permissions import SYSTEM
from apps.moderation.actions import install_default_policy, moderate
from apps.moderation.models import Policy
from apps.registry.models import ModelVersion

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# Ids of existing rows, because generated ids would only return 404.
CONFIG = """
[[operations]]
include-path-regex = "/moderation/queue/"
parameters = {{ "path.id" = {item} }}

[[operations]]
include-path-regex = "/predictions/"
parameters = {{ "path.id" = "{prediction}" }}
"""


@pytest.mark.slow
def test_schema_describes_responses_to_generated_requests(
    live_server: LiveServer, champion: ModelVersion, tmp_path: Path
) -> None:
    install_default_policy()
    Policy.objects.update(audit_share=1)
    moderator = User.objects.create_superuser("root")
    key, secret = create_api_key(actor=SYSTEM, name="fuzzer", rate_per_minute=10**6, acts_as=moderator)
    paths = requests.get(f"{live_server.url}/api/v1/schema?format=json", timeout=60).json()["paths"]
    assert {"/api/v1/models", "/v1/moderations"} <= set(paths)
    item = moderate(text="Good morning to all of you.", api_key=key).item
    assert item is not None
    config = CONFIG.format(item=item.pk, prediction=item.submission_id)
    (tmp_path / "schemathesis.toml").write_text(config)
    program = Path(sys.executable).with_name("schemathesis")
    arguments = ["run", f"{live_server.url}/api/v1/schema", "--header", f"Authorization: Api-Key {secret}"]
    options = ["--checks", CHECKS, "--max-examples", "5", "--seed", "1", "--continue-on-failure"]
    process = subprocess.run([program, *arguments, *options], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
