variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "environment" {
  description = "The tag that the budget counts."
  type        = string
}

variable "region" {
  description = "The AWS region."
  type        = string
}

variable "key_arn" {
  description = "The key for the topic."
  type        = string
}

variable "email" {
  description = "Who is told."
  type        = string
}

variable "monthly_budget" {
  description = "US dollars a month."
  type        = number
}

variable "balancer" {
  description = "How CloudWatch calls the load balancer."
  type        = string
}

variable "target" {
  description = "How CloudWatch calls the web instances' group."
  type        = string
}

variable "database" {
  description = "How CloudWatch calls PostgreSQL."
  type        = string
}

variable "cache_members" {
  description = "How CloudWatch calls the broker's nodes."
  type        = list(string)
}

variable "hosts" {
  description = "All instances."
  type        = list(object({ name = string, instance_id = string, address = string }))
}

variable "metrics" {
  description = "Metrics read off the workers' lines."
  type        = object({ queue_age = string, mirror_lag = string })
}
