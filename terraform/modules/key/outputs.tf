output "arn" {
  description = "The key that encrypts all that rests."
  value       = aws_kms_key.this.arn
}
