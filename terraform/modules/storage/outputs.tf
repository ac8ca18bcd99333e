output "buckets" {
  description = "Buckets by use: datasets (and exports), artifacts, backups, deploy."
  value       = { for use, bucket in aws_s3_bucket.this : use => bucket.id if use != "logs" }
}

output "arns" {
  description = "Their ARNs."
  value       = { for use, bucket in aws_s3_bucket.this : use => bucket.arn if use != "logs" }
}

output "log_bucket" {
  description = "Where the load balancer writes its access logs; usable once its policy stands."
  value       = aws_s3_bucket_policy.this["logs"].bucket
}
