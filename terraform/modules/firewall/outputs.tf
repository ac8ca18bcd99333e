output "group_ids" {
  description = "Security groups by what they guard: balancer, web, worker, mlflow, database, cache."
  value       = { for name, group in aws_security_group.this : name => group.id }
}
