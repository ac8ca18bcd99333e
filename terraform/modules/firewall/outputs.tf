output "group_ids" {
  description = "Security groups by tier: balancer, web, worker, mlflow, database, cache."
  value       = { for name, group in aws_security_group.this : name => group.id }
}
