output "host" {
  description = "The server's name."
  value       = aws_db_instance.this.address
}

output "port" {
  description = "The port."
  value       = aws_db_instance.this.port
}

output "identifier" {
  description = "The name in CloudWatch."
  value       = aws_db_instance.this.identifier
}

output "admin_secret_arn" {
  description = "The ARN of the secret with the administrator's password."
  value       = one(aws_db_instance.this.master_user_secret[*].secret_arn)
}
