output "name" {
  description = "The table."
  value       = aws_dynamodb_table.this.name
}

output "arn" {
  description = "Its ARN."
  value       = aws_dynamodb_table.this.arn
}
