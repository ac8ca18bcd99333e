output "host" {
  description = "The primary's name."
  value       = aws_elasticache_replication_group.this.primary_endpoint_address
}

output "port" {
  description = "Its port."
  value       = aws_elasticache_replication_group.this.port
}

output "url" {
  description = "For REDIS_URL, with TLS and the certificate checked."
  value       = "rediss://${aws_elasticache_replication_group.this.primary_endpoint_address}:${aws_elasticache_replication_group.this.port}/0?ssl_cert_reqs=required"
}

output "members" {
  description = "How CloudWatch calls the nodes."
  value       = [for number in range(var.nodes) : format("%s-%03d", var.name, number + 1)]
}
