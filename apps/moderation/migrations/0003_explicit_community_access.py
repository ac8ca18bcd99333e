from django.db import migrations


def make_access_explicit(apps, schema_editor):
    """Copy the rows to accounts. A user without a row saw every community, so keeps that access, explicitly."""
    old = apps.get_model('moderation', 'CommunityAccess')
    new = apps.get_model('accounts', 'CommunityAccess')
    user = apps.get_model('accounts', 'User')
    new.objects.bulk_create(
        new(user_id=user_id, community=community)
        for user_id, community in old.objects.values_list('user_id', 'community')
    )
    user.objects.exclude(pk__in=old.objects.values('user_id')).update(all_communities=True)


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0002_explicit_community_access'),
        ('moderation', '0002_learn'),
    ]

    operations = [
        migrations.RunPython(make_access_explicit, migrations.RunPython.noop, elidable=True),
        migrations.DeleteModel(name='CommunityAccess'),
    ]
