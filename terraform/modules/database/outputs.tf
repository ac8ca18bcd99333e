output "host" {
  description = "The server's name."
  value       = aws_db_instance.this.address
}

output "port" {
  description = "Its port."
  value       = aws_db_instance.this.port
}

output "identifier" {
  description = "How CloudWatch calls it."
  value       = aws_db_instance.this.identifier
}

output "admin_secret_arn" {
  description = "Where RDS keeps the administrator's password."
  value       = one(aws_db_instance.this.master_user_secret[*].secret_arn)
}
