import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0001_initial'),
    ]

    operations = [
        migrations.AddField(
            model_name='user',
            name='all_communities',
            field=models.BooleanField(default=False, help_text='Lets the user see every community, those to come included. If unticked, the user sees the communities listed below and nothing else. Superusers see everything.', verbose_name='access to all communities'),
        ),
        migrations.CreateModel(
            name='CommunityAccess',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('community', models.CharField(blank=True, max_length=100)),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='community_access', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name_plural': 'community access',
                'ordering': ('user', 'community'),
                'constraints': [models.UniqueConstraint(fields=('user', 'community'), name='accounts_one_access')],
            },
        ),
    ]
