output "arns" {
  description = "Secrets by use: secret_key, site_database, mlflow_database, mlflow_password."
  value       = { for use, secret in aws_secretsmanager_secret.this : use => secret.arn }
}
