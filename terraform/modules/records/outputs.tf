output "name" {
  description = "The table."
  value       = aws_dynamodb_table.this.name
}

output "arn" {
  description = "The ARN."
  value       = aws_dynamodb_table.this.arn
}
