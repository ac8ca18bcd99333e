import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


def rename_values(apps, schema_editor):
    apps.get_model('moderation', 'Submission')._base_manager.filter(outcome='unasked').update(
        outcome='not_moderated'
    )
    jobs = apps.get_model('moderation', 'BulkJob')
    for job in jobs.objects.filter(filter__has_key='lane'):
        job.filter['queue'] = job.filter.pop('lane')
        job.save(update_fields=['filter'])


class Migration(migrations.Migration):
    """Rename fields, indexes and values after the glossary."""

    dependencies = [
        ('accounts', '0003_least_rate'),
        ('moderation', '0009_similar_decisions_and_bulk_undo'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RenameField('policy', 'may_decide', 'allowed_groups'),
        migrations.RemoveConstraint('queueitem', 'moderation_lesson'),
        migrations.RemoveConstraint('queueitem', 'moderation_one_lesson_per_comment'),
        migrations.RemoveIndex('queueitem', 'moderation_queue_lane'),
        migrations.RemoveIndex('queueitem', 'moderation_queue_comm_lane'),
        migrations.RemoveIndex('queueitem', 'moderation_queue_oldest'),
        migrations.RemoveIndex('queueitem', 'moderation_queue_lane_due'),
        migrations.RemoveIndex('queueitem', 'moderation_queue_sketch_a'),
        migrations.RemoveIndex('queueitem', 'moderation_queue_sketch_b'),
        migrations.RenameField('queueitem', 'lane', 'queue'),
        migrations.RenameField('queueitem', 'lesson', 'selection_reason'),
        migrations.RenameField('queueitem', 'history', 'author_risk'),
        migrations.RenameField('queueitem', 'sketch_a', 'minhash_a'),
        migrations.RenameField('queueitem', 'sketch_b', 'minhash_b'),
        migrations.RenameField('queueitem', 'not_for', 'excluded_reviewer'),
        migrations.RenameField('preference', 'severe_budget', 'exposure_limit'),
        migrations.AlterField(
            model_name='appeal',
            name='text',
            field=models.TextField(blank=True, help_text="The author's statement.", max_length=5000),
        ),
        migrations.AlterField(
            model_name='bulkjob',
            name='count',
            field=models.PositiveIntegerField(help_text='Number of items that the filter selects.'),
        ),
        migrations.AlterField(
            model_name='bulkjob',
            name='cursor',
            field=models.BigIntegerField(default=0, help_text='The last item that was processed.'),
        ),
        migrations.AlterField(
            model_name='bulkjob',
            name='filter',
            field=models.JSONField(help_text='Selects the items, see `actions.BulkFilter`.'),
        ),
        migrations.AlterField(
            model_name='bulkjob',
            name='last_item',
            field=models.BigIntegerField(help_text='The last item that the job may decide.'),
        ),
        migrations.AlterField(
            model_name='bulkjob',
            name='skipped',
            field=models.PositiveIntegerField(default=0, help_text='Leased or decided by others meanwhile.'),
        ),
        migrations.AlterField(
            model_name='bulkjob',
            name='status',
            field=models.CharField(choices=[('draft', 'Not confirmed'), ('queued', 'Queued'), ('running', 'Running'), ('done', 'Done'), ('cancelled', 'Cancelled'), ('undoing', 'Being undone'), ('undone', 'Undone')], default='draft', max_length=9),
        ),
        migrations.AlterField(
            model_name='bulkjob',
            name='undo_cursor',
            field=models.BigIntegerField(default=0, help_text='The last decision that the undo processed.'),
        ),
        migrations.AlterField(
            model_name='bulkjob',
            name='undone',
            field=models.PositiveIntegerField(default=0, help_text='Number of its decisions that were undone.'),
        ),
        migrations.AlterField(
            model_name='decision',
            name='applied_from',
            field=models.ForeignKey(help_text='The decision on a similar comment that was applied to this one as well.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='applied', to='moderation.decision'),
        ),
        migrations.AlterField(
            model_name='decision',
            name='client',
            field=models.ForeignKey(help_text='The API key of the request.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.apikey'),
        ),
        migrations.AlterField(
            model_name='decision',
            name='reverses',
            field=models.OneToOneField(help_text='The decision that this one undoes.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='reversal', to='moderation.decision'),
        ),
        migrations.AlterField(
            model_name='delivery',
            name='event',
            field=models.CharField(choices=[('decision.made', 'A moderator decided'), ('decision.reversed', 'A decision was undone'), ('appeal.resolved', 'An appeal was resolved')], max_length=20),
        ),
        migrations.AlterField(
            model_name='delivery',
            name='send_after',
            field=models.DateTimeField(help_text='While it is being sent: when another worker tries again.'),
        ),
        migrations.AlterField(
            model_name='policy',
            name='allowed_groups',
            field=models.JSONField(blank=True, default=list, help_text='Names of the groups that may decide; empty: everybody with the permission.'),
        ),
        migrations.AlterField(
            model_name='policy',
            name='audit_share',
            field=models.FloatField(default=0.01, help_text='Share of approved comments that are sampled for a moderator to check.'),
        ),
        migrations.AlterField(
            model_name='policy',
            name='community',
            field=models.CharField(blank=True, help_text='Empty: the default policy of all communities.', max_length=100),
        ),
        migrations.AlterField(
            model_name='policy',
            name='due_minutes',
            field=models.PositiveIntegerField(default=1440, help_text='Minutes within which an item is to be reviewed.'),
        ),
        migrations.AlterField(
            model_name='policy',
            name='reject_audit_share',
            field=models.FloatField(default=0.01, help_text='Share of automatically rejected comments that are sampled for a moderator to check.'),
        ),
        migrations.AlterField(
            model_name='policy',
            name='second_review_share',
            field=models.FloatField(default=0.05, help_text='Share of human decisions that another moderator repeats without seeing the first one.'),
        ),
        migrations.AlterField(
            model_name='policy',
            name='strike_days',
            field=models.PositiveIntegerField(default=90, help_text='Days after which a strike expires.'),
        ),
        migrations.AlterField(
            model_name='policy',
            name='urgent_due_minutes',
            field=models.PositiveIntegerField(default=60, help_text='Minutes within which an urgent or escalated item is to be reviewed.'),
        ),
        migrations.AlterField(
            model_name='policyrule',
            name='guideline',
            field=models.TextField(blank=True, help_text='Guideline for moderators.'),
        ),
        migrations.AlterField(
            model_name='policyrule',
            name='reason',
            field=models.CharField(help_text='The explanation that the author gets.', max_length=300),
        ),
        migrations.AlterField(
            model_name='policyrule',
            name='reject_from',
            field=models.FloatField(blank=True, help_text='Calibrated probability from which a comment is removed automatically; empty: never.', null=True),
        ),
        migrations.AlterField(
            model_name='policyrule',
            name='review_from',
            field=models.FloatField(blank=True, help_text='Calibrated probability from which a comment is held for review; empty: never.', null=True),
        ),
        migrations.AlterField(
            model_name='policyrule',
            name='strikes',
            field=models.PositiveSmallIntegerField(default=1, help_text='Strikes that the author gets for a rejection.'),
        ),
        migrations.AlterField(
            model_name='preference',
            name='exposure_limit',
            field=models.PositiveSmallIntegerField(default=40, help_text='Severe comments in a shift after which the console suggests a break; 0: never.'),
        ),
        migrations.AlterField(
            model_name='preference',
            name='masked',
            field=models.BooleanField(default=True, help_text='Hide each comment until it is revealed.'),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='author_risk',
            field=models.FloatField(help_text="From 0 to 1, from the author's strikes."),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='cluster',
            field=models.BigIntegerField(help_text='Near-duplicates have the same number.'),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='excluded_reviewer',
            field=models.ForeignKey(help_text='Made the earlier decision, so must not decide this item.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='kind',
            field=models.CharField(choices=[('review', 'Review: the policy requires a moderator'), ('audit', 'Audit: random check of an automatic decision'), ('learn', 'Active learning: selected to improve the next model'), ('appeal', 'Appeal: the author objects'), ('second', 'Second review, blind'), ('example', 'Example')], max_length=8),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='minhash_a',
            field=models.BigIntegerField(help_text='First minimum hash of the pairs of words.'),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='minhash_b',
            field=models.BigIntegerField(help_text='Second minimum hash of the pairs of words.'),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='original',
            field=models.ForeignKey(help_text='The item that a second review repeats.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='moderation.queueitem'),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='priority',
            field=models.FloatField(help_text="Score from severity, uncertainty and author risk, less the days from 2026-01-01 to the item's arrival. Waiting raises every item alike, so the order needs no updates."),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='queue',
            field=models.CharField(choices=[('urgent', 'Urgent'), ('uncertain', 'Uncertain'), ('normal', 'Normal'), ('audit', 'Audit'), ('learn', 'Active learning'), ('second', 'Second review'), ('appeal', 'Appeals'), ('escalated', 'Escalated')], max_length=9),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='requested_by',
            field=models.ForeignKey(db_index=False, help_text='The user who sent the comment to review; empty where the policy or an author did.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='sampling_chance',
            field=models.FloatField(default=1.0, help_text='Probability with which a comment like it is sampled for review.'),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='selection_reason',
            field=models.CharField(blank=True, choices=[('uncertainty', 'model unsure'), ('disagreement', 'champion and challenger disagree')], help_text='Of an item for active learning only.', max_length=12),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='uncertainty',
            field=models.FloatField(help_text='From 0 to 1: how close the score is to a threshold.'),
        ),
        migrations.AlterField(
            model_name='queueitem',
            name='version',
            field=models.PositiveIntegerField(default=1, help_text='Increases with each change of the lease or the status.'),
        ),
        migrations.AlterField(
            model_name='strike',
            name='lifted_at',
            field=models.DateTimeField(help_text='When the decision was undone or overruled.', null=True),
        ),
        migrations.AlterField(
            model_name='submission',
            name='context',
            field=models.JSONField(default=dict, help_text="The comment's parent and page, as the platform sent them."),
        ),
        migrations.AlterField(
            model_name='submission',
            name='outcome',
            field=models.CharField(choices=[('approve', 'Approved'), ('reject', 'Rejected'), ('human_review', 'Waits for a moderator'), ('not_moderated', 'Scored only, not moderated')], max_length=13),
        ),
        migrations.AlterField(
            model_name='submission',
            name='retry_key',
            field=models.CharField(editable=False, help_text='Hash of external ID, comment and day, for external IDs that several comments may share.', max_length=64, null=True, unique=True),
        ),
        migrations.AddIndex(
            model_name='queueitem',
            index=models.Index(condition=models.Q(('status', 'open')), fields=['queue', '-priority', '-id'], name='moderation_one_queue'),
        ),
        migrations.AddIndex(
            model_name='queueitem',
            index=models.Index(condition=models.Q(('status', 'open')), fields=['community', 'queue', '-priority', '-id'], name='moderation_one_queue_community'),
        ),
        migrations.AddIndex(
            model_name='queueitem',
            index=models.Index(condition=models.Q(('status', 'open')), fields=['queue', 'created_at'], name='moderation_one_queue_oldest'),
        ),
        migrations.AddIndex(
            model_name='queueitem',
            index=models.Index(condition=models.Q(('status', 'open')), fields=['queue', 'due_at'], name='moderation_one_queue_due'),
        ),
        migrations.AddIndex(
            model_name='queueitem',
            index=models.Index(condition=models.Q(('status', 'open')), fields=['minhash_a'], name='moderation_queue_minhash_a'),
        ),
        migrations.AddIndex(
            model_name='queueitem',
            index=models.Index(condition=models.Q(('status', 'open')), fields=['minhash_b'], name='moderation_queue_minhash_b'),
        ),
        migrations.AddConstraint(
            model_name='queueitem',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('kind', 'learn'), ('selection_reason__in', ['uncertainty', 'disagreement'])), models.Q(models.Q(('kind', 'learn'), _negated=True), ('selection_reason', '')), _connector='OR'), name='moderation_selection_reason', violation_error_message='An item for active learning, and no other, names the reason for which it was selected.'),
        ),
        migrations.AddConstraint(
            model_name='queueitem',
            constraint=models.UniqueConstraint(condition=models.Q(('kind', 'learn')), fields=('submission',), name='moderation_one_active_learning', violation_error_message='This comment has been selected for active learning already.'),
        ),
        migrations.RunPython(rename_values, migrations.RunPython.noop),
    ]
