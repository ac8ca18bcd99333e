# Security properties for all sizes. The provider is a mock, so that no cloud is needed.
mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
}

variables {
  name      = "toxicmod-staging"
  key_arn   = "arn:aws:kms:eu-central-1:123456789012:key/1"
  protected = true
}

run "only_port_443_is_open_to_the_internet" {
  command = plan
  module {
    source = "./modules/firewall"
  }
  variables {
    vpc_id      = "vpc-1"
    web_port    = 80
    mlflow_port = 80
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.internet.from_port == 443 && aws_vpc_security_group_ingress_rule.internet.to_port == 443
    error_message = "Only port 443 may be open to the internet."
  }
  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.connection : rule.cidr_ipv4 == null && rule.cidr_ipv6 == null])
    error_message = "All other ports must be open to security groups, not to addresses."
  }
  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.connection : rule.ip_protocol == "tcp" && rule.from_port == rule.to_port && contains([80, 5432, 6379], rule.from_port)])
    error_message = "Each rule must open one known port, which is not SSH's."
  }
  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_egress_rule.https : rule.from_port == 443 && rule.to_port == 443])
    error_message = "Hosts may connect to the internet only on port 443."
  }
  assert {
    condition     = toset(keys(aws_vpc_security_group_egress_rule.https)) == toset(["web", "worker", "mlflow"])
    error_message = "The database and the broker must have no outgoing connections."
  }
  assert {
    condition     = toset([for connection in keys(aws_vpc_security_group_ingress_rule.connection) : connection if startswith(connection, "database_")]) == toset(["database_from_web", "database_from_worker", "database_from_mlflow"])
    error_message = "Only the hosts may connect to PostgreSQL."
  }
}

run "data_subnets_have_no_route_out" {
  command = plan
  module {
    source = "./modules/network"
  }
  variables {
    region       = "eu-central-1"
    cidr         = "10.60.0.0/16"
    nat_gateways = 2
    log_days     = 30
  }

  assert {
    condition     = length(aws_subnet.this) == 6 && length(toset([for subnet in aws_subnet.this : subnet.availability_zone])) == 2
    error_message = "There must be three tiers in two zones."
  }
  assert {
    condition     = alltrue([for subnet in aws_subnet.this : subnet.map_public_ip_on_launch != true])
    error_message = "No subnet may assign public addresses."
  }
  assert {
    condition     = length(toset([for subnet in aws_subnet.this : subnet.cidr_block])) == 6
    error_message = "Subnets must not overlap."
  }
  assert {
    condition     = alltrue([for table in aws_route_table.private : alltrue([for route in table.route : coalesce(route.gateway_id, "none") == "none"])])
    error_message = "Private subnets must have a route through NAT."
  }
}

run "hosts_are_hardened" {
  command = plan
  module {
    source = "./modules/hosts"
  }
  variables {
    kind       = "web"
    number     = 2
    type       = "t3.small"
    disk       = 20
    image      = { owner = "136693071363", name = "debian-12-amd64-*" }
    subnet_ids = ["subnet-1", "subnet-2"]
    group_id   = "sg-1"
    profile    = "web"
  }

  assert {
    condition     = alltrue([for host in aws_instance.this : host.metadata_options[0].http_tokens == "required" && host.metadata_options[0].http_put_response_hop_limit == 1])
    error_message = "Metadata must need IMDSv2 with a hop limit of 1."
  }
  assert {
    condition     = alltrue([for host in aws_instance.this : host.root_block_device[0].encrypted == true && host.root_block_device[0].kms_key_id == var.key_arn])
    error_message = "Disks must be encrypted with the stack's key."
  }
  assert {
    condition     = toset([for host in aws_instance.this : host.subnet_id]) == toset(["subnet-1", "subnet-2"])
    error_message = "Two hosts must be in two zones."
  }
  assert {
    condition     = !can(regex("(?i)password|secret|token|AKIA", aws_instance.this[0].user_data))
    error_message = "User data must not contain a secret."
  }
}

run "database_is_private_with_backups" {
  command = plan
  module {
    source = "./modules/database"
  }
  variables {
    subnet_ids = ["subnet-1", "subnet-2"]
    group_id   = "sg-1"
    size       = { class = "db.t4g.medium", storage = 100, max_storage = 500, standby = true, backup_days = 14 }
  }

  assert {
    condition     = !aws_db_instance.this.publicly_accessible && aws_db_instance.this.storage_encrypted && aws_db_instance.this.deletion_protection
    error_message = "PostgreSQL must be private, encrypted and protected."
  }
  assert {
    condition     = aws_db_instance.this.manage_master_user_password && aws_db_instance.this.password == null
    error_message = "RDS must store the administrator's password, not Terraform's state."
  }
  assert {
    condition     = contains([for parameter in aws_db_parameter_group.this.parameter : "${parameter.name}=${parameter.value}"], "rds.force_ssl=1")
    error_message = "PostgreSQL must accept only TLS."
  }
  assert {
    condition     = aws_db_instance.this.backup_retention_period == 14 && !aws_db_instance.this.skip_final_snapshot
    error_message = "Backups and a final snapshot must be kept."
  }
}

run "broker_is_encrypted" {
  command = plan
  module {
    source = "./modules/cache"
  }
  variables {
    subnet_ids = ["subnet-1", "subnet-2"]
    group_id   = "sg-1"
    type       = "cache.t4g.small"
    nodes      = 2
  }

  assert {
    condition     = aws_elasticache_replication_group.this.transit_encryption_enabled && tobool(aws_elasticache_replication_group.this.at_rest_encryption_enabled)
    error_message = "The broker must encrypt data in transit and at rest."
  }
  assert {
    condition     = aws_elasticache_replication_group.this.automatic_failover_enabled
    error_message = "Two nodes must have failover."
  }
}

run "buckets_are_private" {
  command = plan
  module {
    source = "./modules/storage"
  }

  assert {
    condition = alltrue([for use in keys(aws_s3_bucket.this) :
      aws_s3_bucket_public_access_block.this[use].block_public_acls &&
      aws_s3_bucket_public_access_block.this[use].block_public_policy &&
      aws_s3_bucket_public_access_block.this[use].ignore_public_acls &&
      aws_s3_bucket_public_access_block.this[use].restrict_public_buckets &&
      aws_s3_bucket_versioning.this[use].versioning_configuration[0].status == "Enabled"
    ])
    error_message = "Every bucket must be private and versioned."
  }
  assert {
    condition = alltrue([for use, encryption in aws_s3_bucket_server_side_encryption_configuration.this :
      alltrue([for rule in encryption.rule : rule.apply_server_side_encryption_by_default[0].sse_algorithm == (use == "logs" ? "AES256" : "aws:kms")])
    ])
    error_message = "Every bucket must be encrypted, all but the access logs with the stack's key."
  }
}

run "records_can_be_restored" {
  command = plan
  module {
    source = "./modules/records"
  }

  assert {
    condition     = aws_dynamodb_table.this.point_in_time_recovery[0].enabled && aws_dynamodb_table.this.server_side_encryption[0].enabled && aws_dynamodb_table.this.deletion_protection_enabled
    error_message = "The table must be encrypted and protected, with point-in-time recovery."
  }
  assert {
    condition     = aws_dynamodb_table.this.ttl[0].enabled && aws_dynamodb_table.this.ttl[0].attribute_name == "expires"
    error_message = "Old records must expire."
  }
}

run "role_names_actions_and_resources" {
  command = plan
  module {
    source = "./modules/role"
  }
  variables {
    kind          = "worker"
    log_group_arn = "arn:aws:logs:eu-central-1:123456789012:log-group:/toxicmod-staging/worker"
    secret_arns   = ["arn:aws:secretsmanager:eu-central-1:123456789012:secret:toxicmod-staging/secret_key"]
    statements = [{
      Sid      = "Objects"
      Action   = ["s3:GetObject"]
      Resource = ["arn:aws:s3:::datasets/*"]
    }]
  }

  assert {
    condition = toset([for statement in jsondecode(aws_iam_role_policy.this.policy).Statement : statement.Sid
    if contains(flatten([statement.Resource]), "*")]) == toset(["Shell", "Metrics"])
    error_message = "Only actions without resource-level permissions may have a star as their resource."
  }
  assert {
    condition     = !strcontains(aws_iam_role_policy.this.policy, ":*\"]") && !strcontains(aws_iam_role_policy.this.policy, "\"Action\":\"*\"")
    error_message = "No statement may allow all actions of a service."
  }
}

run "role_rejects_star" {
  command = plan
  module {
    source = "./modules/role"
  }
  variables {
    kind          = "worker"
    log_group_arn = "arn:aws:logs:eu-central-1:123456789012:log-group:/toxicmod-staging/worker"
    secret_arns   = ["arn:aws:secretsmanager:eu-central-1:123456789012:secret:toxicmod-staging/secret_key"]
    statements = [{
      Sid      = "Everything"
      Action   = ["s3:*"]
      Resource = ["*"]
    }]
  }
  expect_failures = [var.statements]
}

run "load_balancer_uses_tls" {
  command = plan
  module {
    source = "./modules/balancer"
  }
  variables {
    vpc_id          = "vpc-1"
    subnet_ids      = ["subnet-1", "subnet-2"]
    group_id        = "sg-1"
    certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/1"
    instance_ids    = ["i-1", "i-2"]
    web_port        = 80
    log_bucket      = "logs"
  }

  assert {
    condition     = aws_lb_listener.https.port == 443 && aws_lb_listener.https.protocol == "HTTPS" && strcontains(aws_lb_listener.https.ssl_policy, "TLS13")
    error_message = "The load balancer must use TLS 1.2 and 1.3 on port 443."
  }
  assert {
    condition     = aws_lb.this.enable_deletion_protection && aws_lb.this.drop_invalid_header_fields
    error_message = "The load balancer must be protected and drop malformed headers."
  }
}
