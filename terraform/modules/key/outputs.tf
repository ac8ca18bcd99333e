output "arn" {
  description = "The key that encrypts all data at rest."
  value       = aws_kms_key.this.arn
}
