output "dns_name" {
  description = "The load balancer's address."
  value       = aws_lb.this.dns_name
}

output "arn_suffix" {
  description = "The name of the load balancer in CloudWatch."
  value       = aws_lb.this.arn_suffix
}

output "target_suffix" {
  description = "The name of the web instances' group in CloudWatch."
  value       = aws_lb_target_group.web.arn_suffix
}
