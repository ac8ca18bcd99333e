"""Unmodified third-party clients of OpenAI's moderation API against the live server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from apps.accounts.actions import create_api_key
from apps.core.permissions import SYSTEM
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

RUDE = "You are a stupid idiot."
KIND = "Thank you, that was kind of you."
LITELLM = """
import json, os
import litellm

response = litellm.moderation(
    os.environ["TEXT"], "omni-moderation-latest", os.environ["KEY"], api_base=os.environ["URL"]
)
print(json.dumps(response.model_dump()["results"][0]["categories"]))
"""
NODE = """
const OpenAI = require('openai');
const options = {baseURL: process.env.URL, maxRetries: 0};
const client = new OpenAI({apiKey: process.env.KEY, ...options});
(async () => {
  const input = [process.env.TEXT, 'Hi'];
  const answer = await client.moderations.create({model: 'omni-moderation-latest', input});
  const image = {type: 'image_url', image_url: {url: 'https://example.org/a.png'}};
  const error = await client.moderations.create({input: [image]})
    .catch(({constructor: {name}, status, code, param}) => ({name, status, code, param}));
  const stranger = new OpenAI({apiKey: process.env.KEY + 'x', ...options});
  const wrong = await stranger.moderations.create({input: 'Hi'})
    .catch(error => error.constructor.name);
  console.log(JSON.stringify({answer, error, wrong}));
})();
"""


@pytest.fixture
def key(champion: ModelVersion, settings: Settings) -> str:
    settings.ANONYMOUS_API = False
    return create_api_key(actor=SYSTEM, name="client")[1]


@pytest.fixture
def environment(live_server: LiveServer, key: str) -> dict[str, str]:
    return os.environ | {"URL": f"{live_server.url}/v1", "KEY": key, "TEXT": RUDE}


def run(command: list[str], **options: Any) -> Any:
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_openai_of_python(live_server: LiveServer, key: str) -> None:
    with openai.OpenAI(base_url=f"{live_server.url}/v1", api_key=key, max_retries=0) as client:
        answer = client.moderations.create(model="omni-moderation-latest", input=RUDE)
        (result,) = answer.results
        assert result.flagged
        assert result.categories.harassment
        assert result.category_scores.harassment > 0.5
        assert result.category_applied_input_types.harassment == ["text"]
        assert result.category_applied_input_types.self_harm == []
        assert not result.categories.sexual_minors
        assert answer.id == f"modr-{Prediction.objects.get().pk}"
        flags = [result.flagged for result in client.moderations.create(input=[KIND, RUDE]).results]
        assert flags == [False, True]
        parts = [{"type": "text", "text": RUDE}]
        assert client.moderations.create(input=parts).results[0].flagged
        image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
        with pytest.raises(openai.BadRequestError, match="text only") as rejected:
            client.moderations.create(input=[image])
        assert (rejected.value.code, rejected.value.param) == ("unsupported_input", "input")
        with pytest.raises(openai.NotFoundError):
            client.models.list()


def test_openai_of_python_raises_its_exceptions(live_server: LiveServer, key: str) -> None:
    url = f"{live_server.url}/v1"
    wrong = openai.OpenAI(base_url=url, api_key="sk-wrong", max_retries=0)
    with wrong as client, pytest.raises(openai.AuthenticationError):
        client.moderations.create(input=KIND)
    slow = create_api_key(actor=SYSTEM, name="slow", rate_per_minute=1)[1]
    with openai.OpenAI(base_url=url, api_key=slow, max_retries=0) as client:
        client.moderations.create(input=KIND)
        with pytest.raises(openai.RateLimitError):
            client.moderations.create(input=KIND)


def test_litellm_moderation(environment: dict[str, str]) -> None:
    categories = run([sys.executable, "-c", LITELLM], env=environment)
    assert categories["harassment"] is True
    assert categories["violence"] is False
    assert Prediction.objects.get().text == RUDE


def test_openai_of_node(node_modules: Path, environment: dict[str, str]) -> None:
    script = node_modules / "openai.cjs"
    script.write_text(NODE)
    output = run(["node", str(script)], env=environment)
    assert [result["flagged"] for result in output["answer"]["results"]] == [True, False]
    assert output["answer"]["results"][0]["categories"]["harassment"] is True
    assert output["error"] == {
        "name": "BadRequestError",
        "status": 400,
        "code": "unsupported_input",
        "param": "input",
    }
    assert output["wrong"] == "AuthenticationError"
