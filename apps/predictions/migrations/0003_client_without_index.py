from django.db import migrations, models

INDEX = "predictions_prediction_client_id_51b1f451"


def _concurrently(schema_editor):
    return "CONCURRENTLY" if schema_editor.connection.vendor == "postgresql" else ""


def drop(apps, schema_editor):
    schema_editor.execute(f'DROP INDEX {_concurrently(schema_editor)} IF EXISTS "{INDEX}"')


def create(apps, schema_editor):
    schema_editor.execute(
        f'CREATE INDEX {_concurrently(schema_editor)} IF NOT EXISTS "{INDEX}" '
        'ON "predictions_prediction" ("client_id")'
    )


class Migration(migrations.Migration):
    """Drop an index while others insert.

    Django's own AlterField would check the foreign key of every row anew, or copy the table.
    """

    atomic = False

    dependencies = [
        ("predictions", "0002_mirror"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(drop, create)],
            state_operations=[
                migrations.AlterField(
                    model_name="prediction",
                    name="client",
                    field=models.ForeignKey(
                        db_index=False,
                        help_text="Empty: anonymous.",
                        null=True,
                        on_delete=models.PROTECT,
                        related_name="+",
                        to="accounts.apikey",
                    ),
                ),
            ],
        ),
    ]
