output "names" {
  description = "Log groups by kind of host: web, worker, mlflow."
  value       = { for kind, group in aws_cloudwatch_log_group.this : kind => group.name }
}

output "arns" {
  description = "The ARNs."
  value       = { for kind, group in aws_cloudwatch_log_group.this : kind => group.arn }
}

output "metrics" {
  description = "Metrics from the workers' log lines: queue_age, mirror_lag."
  value       = { for figure, filter in aws_cloudwatch_log_metric_filter.this : figure => one(filter.metric_transformation[*].name) }
}
