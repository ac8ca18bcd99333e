"""An AWS to apply Terraform against: moto's server, with the missing features that the AWS provider needs.

`python -m toxicmod.tests.infra.aws PORT` serves it on this machine until it is interrupted.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from moto.budgets.responses import BudgetsResponse
from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.models.security_groups import SecurityGroupRule
from moto.elasticache import models as elasticache
from moto.elasticache.exceptions import ReplicationGroupNotFound
from moto.elasticache.responses import ElastiCacheResponse
from moto.rds.models import DBParameterGroup
from moto.server import main

_create_budget = BudgetsResponse.create_budget
_create_group = elasticache.ElastiCacheBackend.create_replication_group
_update_parameters = DBParameterGroup.update_parameters


def _create_replication_group(self: Any, **wanted: Any) -> Any:
    """Respect NumCacheClusters, and create the members as clusters: the provider reads the first one."""
    wanted["replicas_per_node_group"] = (wanted["num_cache_clusters"] or 1) - 1
    group = _create_group(self, **wanted)
    for name in group.member_clusters:
        self.cache_clusters[name] = SimpleNamespace(
            arn=f"arn:aws:elasticache:{self.region_name}:{self.account_id}:cluster:{name}",
            at_rest_encryption_enabled=group.at_rest_encryption_enabled,
            auth_token_enabled=False,
            auto_minor_version_upgrade=True,
            cache_cluster_id=name,
            cache_cluster_status="available",
            cache_node_type=group.cache_node_type,
            cache_parameter_group={"cache_parameter_group_name": group.cache_parameter_group_name},
            cache_subnet_group_name=group.cache_subnet_group_name,
            engine=group.engine,
            engine_version=group.engine_version,
            num_cache_nodes=1,
            preferred_maintenance_window=group.preferred_maintenance_window,
            replication_group_id=group.replication_group_id,
            security_groups=[
                {"security_group_id": number, "status": "active"} for number in group.security_group_ids or []
            ],
            snapshot_retention_limit=group.snapshot_retention_limit,
            snapshot_window=group.snapshot_window,
            transit_encryption_enabled=group.transit_encryption_enabled,
            transit_encryption_mode="required",
        )
    return group


def _delete_replication_group(self: Any, replication_group_id: str, **_: Any) -> Any:
    """Delete at once, with the members; moto's groups stay in deletion."""
    if replication_group_id not in self.replication_groups:
        raise ReplicationGroupNotFound(replication_group_id)
    group = self.replication_groups.pop(replication_group_id)
    for name in group.member_clusters:
        self.cache_clusters.pop(name, None)
    group.status = "deleting"
    return group


def _delete_cache_subnet_group(self: Any) -> ActionResult:
    """Delete a subnet group, which moto cannot."""
    self.elasticache_backend.cache_subnet_groups.pop(self._get_param("CacheSubnetGroupName"))
    return EmptyResult()


def _rule_description(self: Any) -> str | None:
    """Return the description of a rule for a security group, not only of one for addresses."""
    return self.ip_range.get("Description") or self.source_group.get("Description")


def _update_parameters_by_user(self: Any, new_parameters: Any) -> None:
    """Mark parameters as set by the user, because the provider reads only those."""
    _update_parameters(self, [parameter | {"Source": "user"} for parameter in new_parameters])


def _create_budget_with_tags(self: Any) -> str:
    """Keep a budget's tags, which moto drops."""
    response = _create_budget(self)
    budget = self._get_param("Budget")["BudgetName"]
    self.backend.budgets[self._get_param("AccountId")][budget].tags = self._get_param("ResourceTags")
    return response


def _list_budget_tags(self: Any) -> str:
    """Return a budget's tags by its ARN."""
    _, _, _, _, account, path = self._get_param("ResourceARN").split(":")
    return json.dumps({"ResourceTags": self.backend.budgets[account][path.partition("/")[2]].tags})


def _describe_subscribers(self: Any) -> str:
    """Return the subscribers of a budget's notification, which moto stores but does not return."""
    budget = self.backend.budgets[self._get_param("AccountId")][self._get_param("BudgetName")]
    wanted = self._get_param("Notification")
    subscribers = next(
        notification.subscribers
        for notification in budget.notifications
        if wanted.items() <= notification.details.items()
    )
    return json.dumps({"Subscribers": subscribers})


def add_missing_features() -> None:
    """Add the missing features to moto in this process."""
    elasticache.ElastiCacheBackend.create_replication_group = _create_replication_group
    elasticache.ElastiCacheBackend.delete_replication_group = _delete_replication_group
    ElastiCacheResponse.delete_cache_subnet_group = _delete_cache_subnet_group
    BudgetsResponse.create_budget = _create_budget_with_tags
    BudgetsResponse.list_tags_for_resource = _list_budget_tags
    BudgetsResponse.describe_subscribers_for_notification = _describe_subscribers
    SecurityGroupRule.description = property(_rule_description)
    DBParameterGroup.update_parameters = _update_parameters_by_user


@contextmanager
def serve() -> Iterator[str]:
    """Run it in a process of its own; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", __spec__.name, str(port)])
    try:
        for _ in range(1200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise RuntimeError("moto's server did not start within two minutes.")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    add_missing_features()
    main(["--host", "127.0.0.1", "--port", sys.argv[1]])
