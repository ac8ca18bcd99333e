locals {
  # The allowed connections. Only the load balancer accepts connections from the internet.
  connections = {
    web_from_balancer    = { from = "balancer", to = "web", port = var.web_port }
    mlflow_from_web      = { from = "web", to = "mlflow", port = var.mlflow_port }
    mlflow_from_worker   = { from = "worker", to = "mlflow", port = var.mlflow_port }
    database_from_web    = { from = "web", to = "database", port = 5432 }
    database_from_worker = { from = "worker", to = "database", port = 5432 }
    database_from_mlflow = { from = "mlflow", to = "database", port = 5432 }
    cache_from_web       = { from = "web", to = "cache", port = 6379 }
    cache_from_worker    = { from = "worker", to = "cache", port = 6379 }
  }
  groups = {
    balancer = "The load balancer"
    web      = "Web instances"
    worker   = "Celery instances"
    mlflow   = "The MLflow instance"
    database = "PostgreSQL"
    cache    = "The broker"
  }
}

resource "aws_security_group" "this" {
  for_each    = local.groups
  name        = "${var.name}-${each.key}"
  description = each.value
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-${each.key}" }
}

resource "aws_vpc_security_group_ingress_rule" "internet" {
  security_group_id = aws_security_group.this["balancer"].id
  description       = "HTTPS from everywhere"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_ingress_rule" "connection" {
  for_each                     = local.connections
  security_group_id            = aws_security_group.this[each.value.to].id
  referenced_security_group_id = aws_security_group.this[each.value.from].id
  description                  = "From ${each.value.from}"
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}

resource "aws_vpc_security_group_egress_rule" "connection" {
  for_each                     = local.connections
  security_group_id            = aws_security_group.this[each.value.from].id
  referenced_security_group_id = aws_security_group.this[each.value.to].id
  description                  = "To ${each.value.to}"
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}

# The hosts use HTTPS for the APIs of AWS, packages and webhooks.
resource "aws_vpc_security_group_egress_rule" "https" {
  for_each          = toset(["web", "worker", "mlflow"])
  security_group_id = aws_security_group.this[each.key].id
  description       = "HTTPS to everywhere"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}
