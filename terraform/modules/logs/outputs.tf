output "names" {
  description = "Log groups by box: web, worker, mlflow."
  value       = { for box, group in aws_cloudwatch_log_group.this : box => group.name }
}

output "arns" {
  description = "Their ARNs."
  value       = { for box, group in aws_cloudwatch_log_group.this : box => group.arn }
}

output "metrics" {
  description = "Metrics read off the workers' lines: queue_age, mirror_lag."
  value       = { for figure, filter in aws_cloudwatch_log_metric_filter.this : figure => one(filter.metric_transformation[*].name) }
}
