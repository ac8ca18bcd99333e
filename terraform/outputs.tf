output "environment" {
  description = "The environment."
  value       = var.environment
}

output "region" {
  description = "The AWS region."
  value       = var.region
}

output "domain" {
  description = "The site's host name; point it at `alb_dns_name`."
  value       = var.domain
}

output "alb_dns_name" {
  description = "The load balancer's address."
  value       = module.balancer.dns_name
}

output "web_hosts" {
  description = "The web instances: name, instance_id, address (private)."
  value       = module.web.hosts
}

output "worker_hosts" {
  description = "The Celery instances: name, instance_id, address (private)."
  value       = module.worker.hosts
}

output "mlflow_host" {
  description = "The MLflow instance: name, instance_id, address (private)."
  value       = one(module.mlflow.hosts)
}

output "database_endpoint" {
  description = "Host and port of PostgreSQL."
  value       = { host = module.database.host, port = module.database.port }
}

output "database_names" {
  description = "The databases and their owners, which Ansible creates."
  value       = { site = "toxicmod", mlflow = "mlflow" }
}

output "redis_endpoint" {
  description = "Host and port of the broker, and its URL with TLS for REDIS_URL."
  value       = { host = module.cache.host, port = module.cache.port, url = module.cache.url }
}

output "dynamodb_table" {
  description = "The table of the prediction mirror."
  value       = module.records.name
}

output "buckets" {
  description = "Buckets by use: datasets (and exports), artifacts (MLflow), backups, deploy (Ansible's files on the way through SSM)."
  value       = module.storage.buckets
}

output "log_groups" {
  description = "CloudWatch log groups by source: web, worker, mlflow."
  value       = module.logs.names
}

output "secret_arns" {
  description = "Secrets by use: secret_key, site_database, mlflow_database, mlflow_password (each a plain string) and database_admin (RDS's own, JSON)."
  value       = merge(module.secrets.arns, { database_admin = module.database.admin_secret_arn })
}
