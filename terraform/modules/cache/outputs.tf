output "host" {
  description = "The primary's name."
  value       = aws_elasticache_replication_group.this.primary_endpoint_address
}

output "port" {
  description = "The port."
  value       = aws_elasticache_replication_group.this.port
}

output "url" {
  description = "The value of REDIS_URL, with TLS and a verified certificate."
  value       = "rediss://${aws_elasticache_replication_group.this.primary_endpoint_address}:${aws_elasticache_replication_group.this.port}/0?ssl_cert_reqs=required"
}

output "members" {
  description = "The names of the nodes in CloudWatch."
  value       = [for number in range(var.nodes) : format("%s-%03d", var.name, number + 1)]
}
