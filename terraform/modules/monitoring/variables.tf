variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "environment" {
  description = "The tag of the resources in the budget."
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
  description = "The e-mail address for alarms."
  type        = string
}

variable "monthly_budget" {
  description = "US dollars per month."
  type        = number
}

variable "balancer" {
  description = "The name of the load balancer in CloudWatch."
  type        = string
}

variable "target" {
  description = "The name of the web instances' group in CloudWatch."
  type        = string
}

variable "database" {
  description = "The name of PostgreSQL in CloudWatch."
  type        = string
}

variable "cache_members" {
  description = "The names of the broker's nodes in CloudWatch."
  type        = list(string)
}

variable "hosts" {
  description = "All instances."
  type        = list(object({ name = string, instance_id = string, address = string }))
}

variable "metrics" {
  description = "Metrics from the workers' log lines."
  type        = object({ queue_age = string, mirror_lag = string })
}
