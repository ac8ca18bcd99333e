"""No form shows the name of a database constraint."""

import pytest
from django.apps import apps
from django.core.exceptions import ValidationError
from django.db.models import BaseConstraint, CheckConstraint, Model, UniqueConstraint

from apps.moderation.models import Policy, PolicyRule

CONSTRAINTS = [
    (model, constraint)
    for model in apps.get_models()
    if model.__module__.startswith("apps.")
    for constraint in model._meta.constraints
]


@pytest.mark.parametrize(("model", "constraint"), CONSTRAINTS, ids=lambda value: getattr(value, "name", ""))
def test_constraint_error_has_a_readable_message(model: type[Model], constraint: BaseConstraint) -> None:
    if isinstance(constraint, UniqueConstraint) and constraint.condition is None:
        return  # Django's own message names the fields.
    assert isinstance(constraint, CheckConstraint | UniqueConstraint)
    message = constraint.get_violation_error_message()
    assert constraint.name not in message
    assert not message.startswith("Constraint")
    assert message.endswith(".")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"review_from": 0.9, "reject_from": 0.5}, "at or below the threshold for rejection"),
        ({"review_from": 1.5}, "a probability from 0 to 1"),
        ({"label": "", "review_from": 0.5}, "A rule without a label has no thresholds"),
    ],
)
def test_policy_rule_constraint_errors_name_the_problem(values: dict[str, object], message: str) -> None:
    rule = PolicyRule(policy=Policy(version=1), title="Rude", reason="Rude.", **{"label": "toxic", **values})
    with pytest.raises(ValidationError) as caught:
        rule.full_clean(exclude=["policy"])
    assert message in " ".join(caught.value.messages)
    assert "moderation_" not in str(caught.value)
