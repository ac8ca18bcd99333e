"""One round of the learning loop: decisions, training, shadow evaluation, promotion, rollback.

`test_loop` starts the servers and runs this module. Moderators reject an insult that the first model does not
know, "walnut". The model that is trained on their decisions has to recognise it.
"""

import csv
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django

django.setup()

import boto3  # noqa: E402  (the rest needs Django)
import pytest  # noqa: E402
from django.conf import settings  # noqa: E402

from apps.accounts.models import User  # noqa: E402
from apps.moderation import actions as moderation  # noqa: E402
from apps.moderation.models import Decision, Policy  # noqa: E402
from apps.registry import actions as registry  # noqa: E402
from apps.registry import tracking  # noqa: E402
from apps.registry.exceptions import GateError  # noqa: E402
from apps.registry.models import Alias, ModelVersion, Promotion  # noqa: E402
from apps.registry.tasks import sync_tracking  # noqa: E402
from apps.training import actions as training  # noqa: E402
from apps.training import shadow, tasks  # noqa: E402
from apps.training.jigsaw import COLUMNS  # noqa: E402
from apps.training.models import Dataset, GateReport, ShadowScore, TrainingRun  # noqa: E402
from toxicmod.testing.factories import labeled_rows  # noqa: E402

DECIDED = 300


def new_insults(count: int, seed: int) -> list[str]:
    """Return comments with an insult that the first model does not know."""
    return [f"walnut {text}" for text in plain(count, seed)]


def plain(count: int, seed: int) -> list[str]:
    """Return comments without any label."""
    return [row[1] for row in labeled_rows(count, seed=seed, share=0)]


class Loop:
    """Steps of the loop against the site at SITE_URL."""

    def __init__(self) -> None:
        self.url = os.environ["SITE_URL"]
        self.began = time.monotonic()

    def log(self, message: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {message}", flush=True)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def flagged(self, texts: list[str]) -> tuple[float, set[int]]:
        """Return the share of comments that the site flags, and the versions that scored them."""
        results = self.post("/api/v1/predict", {"texts": texts})["results"]
        return (
            sum(result["is_toxic"] for result in results) / len(texts),
            {result["model_version"] for result in results},
        )

    def wait(self, condition: Callable[[], Any], description: str, seconds: float = 240) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if result := condition():
                return result
            time.sleep(0.1)
        runs_now = list(TrainingRun.objects.values_list("pk", "status", "step", "error"))
        raise AssertionError(f"not within {seconds} s: {description}; the runs are {runs_now}")

    def serves(self, version: ModelVersion, promoted: float) -> None:
        self.wait(lambda: self.flagged(["hello there"])[1] == {version.number}, f"{version} serves", 5)
        self.log(f"{version} serves {time.monotonic() - promoted:.1f} s after it became champion")

    def succeeded(self, run: TrainingRun) -> ModelVersion:
        """Wait until a worker has trained a run and measured its gates; return the challenger."""
        done = TrainingRun.objects.filter(pk=run.pk, status=TrainingRun.Status.SUCCEEDED)
        self.wait(done.exists, f"{run} is trained")
        run.refresh_from_db()
        version = run.version
        assert version is not None
        assert version == ModelVersion.objects.with_alias(Alias.CHALLENGER)
        self.wait(lambda: GateReport.objects.current(version), "the gates are measured")
        return version


def promote(version: ModelVersion, lead: User) -> float:
    """Promote a version and override the gates that fail because there are few rows."""
    report = GateReport.objects.current(version)
    assert report is not None
    failed = [gate["name"] for gate in report.gates if not gate["passed"]]
    if failed:
        with pytest.raises(GateError):
            training.promote(version=version, reason="without force", actor=lead)
    promotion = training.promote(version=version, reason="a drill", actor=lead, force=True)
    assert (promotion.forced, promotion.gates) == (bool(failed), report.gates)
    return time.monotonic()


def main() -> None:
    """Train, decide, retrain, promote and roll back, once."""
    loop = Loop()
    first = ModelVersion.objects.get(alias=Alias.CHAMPION)
    lead = User.objects.create_superuser("lea")
    moderation.install_default_policy()
    # Moderators review every comment.
    Policy.objects.update(audit_share=1, reject_audit_share=0, second_review_share=0)

    path = Path(settings.DATA_DIR, "ours.csv")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *labeled_rows(600)])
    base, _ = training.import_dataset(source=str(path), name="ours")
    run = training.create_run(actor=lead, dataset=base)
    training.enqueue_run(run)
    trained = loop.succeeded(run)
    # MLflow does not run yet. The model is stored and copied to MLflow later.
    assert (trained.mlflow_version, run.mlflow_run_id) == ("", "")
    loop.log(f"{trained} is trained while MLflow is down")
    loop.serves(trained, promote(trained, lead))

    walnuts, plain_texts = new_insults(DECIDED // 2, seed=1), plain(DECIDED - DECIDED // 2, seed=77)
    before, _ = loop.flagged(new_insults(100, seed=2))
    assert before < 0.2, before
    for text in walnuts + plain_texts:
        loop.post("/api/v1/moderate", {"text": text, "author": "troll"})
    loop.log(f"{len(walnuts + plain_texts)} comments came in")
    while item := moderation.claim_next(user=lead):
        rude = "walnut" in item.submission.text
        moderation.decide(
            item_id=item.pk,
            version=item.version,
            user=lead,
            action=Decision.Action.REJECT if rude else Decision.Action.APPROVE,
            labels=["toxic", "insult"] if rude else [],
            rule=item.policy.rules.get(label="insult") if rude else None,
        )
    decided = Decision.objects.human().effective().count()
    assert decided >= 0.9 * DECIDED, decided
    loop.log(f"{decided} were decided")

    print("MLFLOW", flush=True)
    assert sys.stdin.readline().strip() == "up"
    sync_tracking.delay()
    client = tracking._mlflow().MlflowClient()
    loop.wait(
        lambda: ModelVersion.objects.exclude(mlflow_version="").filter(pk=trained.pk).exists(), "MLflow knows"
    )
    trained.refresh_from_db()
    assert client.get_run(trained.mlflow_run_id).data.params["dataset"] == str(base)
    loop.log("MLflow has caught up")

    tasks.retrain_if_due.delay()
    run = loop.wait(TrainingRun.objects.exclude(trigger=None).first, "a run was requested")
    challenger = loop.succeeded(run)
    built: Dataset = run.dataset
    assert built.is_built
    assert built.rows >= 600 + 0.9 * decided
    logged = client.get_run(run.mlflow_run_id)
    assert logged.data.params["dataset_sha256"] == built.sha256
    objects = boto3.client("s3").list_objects_v2(Bucket="mlflow")["Contents"]
    assert any(run.mlflow_run_id in result["Key"] for result in objects)
    loop.log(f"{challenger} is trained on {built} and measured")

    fresh = new_insults(100, seed=3)
    loop.flagged(fresh + plain(200, seed=78))
    # Two schedulers at once.
    tasks.score_in_shadow.delay()
    tasks.score_in_shadow.delay()
    loop.wait(lambda: ShadowScore.objects.filter(version=challenger).count() >= 300, "the shadow scored", 60)
    compared = shadow.compare(challenger=challenger, champion=trained)
    assert all("walnut" in (row.prediction.text or "") for row in compared.disagreements[:10])
    assert compared.flagged is not None
    assert compared.flagged[1] > compared.flagged[0]
    loop.log(
        f"shadow evaluation: {challenger} flags {compared.flagged[1]:.2f}, "
        f"{trained} {compared.flagged[0]:.2f}"
    )

    loop.serves(challenger, promote(challenger, lead))
    after, _ = loop.flagged(new_insults(100, seed=4))
    false_alarms, _ = loop.flagged(plain(100, seed=79))
    loop.log(
        f"flagged of the corrected kind: {before:.2f} before, {after:.2f} after; of others {false_alarms:.2f}"
    )
    assert after > 0.8, after
    assert false_alarms < 0.1, false_alarms

    registry.rollback(reason="to test the rollback", actor=lead)
    loop.serves(trained, time.monotonic())
    assert loop.flagged(new_insults(100, seed=4))[0] < 0.2
    sync_tracking.delay()
    loop.wait(
        lambda: (
            str(client.get_model_version_by_alias("toxicmod", "champion").version) == trained.mlflow_version
        ),
        "MLflow knows the rollback",
    )
    assert [row.version for row in Promotion.objects.order_by("pk")] == [first, trained, challenger, trained]
    assert ModelVersion.objects.filter(alias=Alias.CHAMPION).count() == 1
    loop.log("rolled back")


if __name__ == "__main__":
    main()
