"""Give each delivery its endpoint. The keys that go signed webhooks with secrets that nobody was ever shown."""

from urllib.parse import urlsplit

import django.db.models.deletion
from django.db import migrations, models
from django.db.models.functions import Now


def add_endpoints(apps, schema_editor):
    Delivery = apps.get_model("moderation", "Delivery")
    Endpoint = apps.get_model("webhooks", "Endpoint")
    for url, client_id in Delivery.objects.order_by().values_list("url", "client_id").distinct():
        parts = urlsplit(url)
        endpoint, _ = Endpoint.objects.get_or_create(
            client_id=client_id, origin=f"{parts.scheme}://{parts.netloc.lower()}"
        )
        Delivery.objects.filter(url=url, client_id=client_id).update(endpoint=endpoint)
    Delivery.objects.filter(status="dead").update(status="failed")


class Migration(migrations.Migration):
    dependencies = [
        ("moderation", "0005_constraint_messages"),
        ("webhooks", "0001_initial"),
    ]

    operations = [
        migrations.DeleteModel(name="WebhookKey"),
        migrations.AddField(
            model_name="delivery",
            name="endpoint",
            field=models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="webhooks.endpoint",
            ),
        ),
        migrations.AddField(
            model_name="delivery",
            name="retry_until",
            field=models.DateTimeField(
                db_default=Now(), help_text="An attempt that fails after this moment is the last one."
            ),
        ),
        migrations.RunPython(add_endpoints, migrations.RunPython.noop),
    ]
