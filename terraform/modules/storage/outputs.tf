output "buckets" {
  description = "Buckets by use: datasets (and exports), artifacts, backups, deploy."
  value       = { for use, bucket in aws_s3_bucket.this : use => bucket.id if use != "logs" }
}

output "arns" {
  description = "The ARNs."
  value       = { for use, bucket in aws_s3_bucket.this : use => bucket.arn if use != "logs" }
}

output "log_bucket" {
  description = "The bucket for the load balancer's access logs, after its policy exists."
  value       = aws_s3_bucket_policy.this["logs"].bucket
}
