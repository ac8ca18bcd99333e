from django.db import migrations, models

INDEX = "predictions_prediction_client_id_51b1f451"


class Migration(migrations.Migration):
    """Drop an index. Django's own AlterField would check the foreign key of every row anew, or copy the table."""

    dependencies = [
        ("predictions", "0002_mirror"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    f'DROP INDEX "{INDEX}"', f'CREATE INDEX "{INDEX}" ON "predictions_prediction" ("client_id")'
                )
            ],
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
