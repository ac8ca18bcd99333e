from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('monitoring', '0007_escalations_reversed'),
    ]

    operations = [
        migrations.RenameModel('Notice', 'Notification'),
        migrations.RenameModel('Progress', 'RollupProgress'),
        migrations.RenameModel('UncountedHour', 'IncompleteHour'),
        migrations.RenameModel('Reference', 'Baseline'),
        migrations.RenameIndex('Notification', 'monitoring_notification_due', old_name='monitoring_notice_outbox'),
        migrations.RemoveConstraint('IncompleteHour', 'monitoring_one_uncounted_hour'),
        migrations.AddConstraint(
            'IncompleteHour',
            models.UniqueConstraint(fields=('origin', 'hour'), name='monitoring_one_incomplete_hour'),
        ),
        migrations.RenameField('HourlyRollup', 'words', 'ngrams'),
        migrations.RenameField('HourlyRollup', 'groups', 'identity_groups'),
        migrations.RenameField('HourlyRollup', 'waits', 'decision_times'),
        migrations.RenameField('HourlyRollup', 'judged', 'moderator_confusion'),
        migrations.RenameField('HourlyRollup', 'said', 'feedback_confusion'),
        migrations.RenameField('HourlyRollup', 'right', 'feedback_right'),
        migrations.RenameField('HourlyRollup', 'wrong', 'feedback_wrong'),
        migrations.RenameField('RequestMinute', 'refused', 'client_errors'),
        migrations.RenameField('RollupProgress', 'until', 'counted_until'),
        migrations.RenameField('RollupProgress', 'held_by', 'lease_owner'),
        migrations.RenameField('RollupProgress', 'held_until', 'lease_expires_at'),
        migrations.RenameField('Baseline', 'words', 'ngrams'),
        migrations.RenameField('DomainCheck', 'compared', 'baseline_name'),
        migrations.RenameField('AlertRule', 'webhook_client', 'webhook_api_key'),
        migrations.RenameField('AlertRule', 'quiet_minutes', 'notification_interval_minutes'),
        migrations.RenameField('AlertRule', 'trains', 'triggers_training'),
        migrations.RenameField('Alert', 'told_at', 'notified_at'),
    ]
