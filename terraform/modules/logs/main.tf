locals {
  kinds = toset(["web", "worker", "mlflow"])
  # Metrics that CloudWatch reads from the JSON log lines of the workers.
  metrics = {
    queue_age  = "queue_age_seconds"
    mirror_lag = "mirror_lag_seconds"
  }
}

resource "aws_cloudwatch_log_group" "this" {
  for_each          = local.kinds
  name              = "/${var.name}/${each.key}"
  retention_in_days = var.days
  kms_key_id        = var.key_arn
}

resource "aws_cloudwatch_log_metric_filter" "this" {
  for_each       = local.metrics
  name           = each.key
  log_group_name = aws_cloudwatch_log_group.this["worker"].name
  pattern        = "{ $.${each.value} = * }"

  metric_transformation {
    namespace = var.name
    name      = each.value
    value     = "$.${each.value}"
    unit      = "Seconds"
  }
}
