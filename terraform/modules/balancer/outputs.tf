output "dns_name" {
  description = "The load balancer's address."
  value       = aws_lb.this.dns_name
}

output "arn_suffix" {
  description = "How CloudWatch calls the load balancer."
  value       = aws_lb.this.arn_suffix
}

output "target_suffix" {
  description = "How CloudWatch calls the web instances' group."
  value       = aws_lb_target_group.web.arn_suffix
}
