output "profile" {
  description = "The instance profile."
  value       = aws_iam_instance_profile.this.name
}
