variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "region" {
  description = "The AWS region."
  type        = string
}

variable "cidr" {
  description = "The network's addresses, a /16."
  type        = string
}

variable "nat_gateways" {
  description = "Ways out of the private subnets, 1 or 2."
  type        = number
}

variable "log_days" {
  description = "Days to keep refused connections."
  type        = number
}

variable "key_arn" {
  description = "The key for the log."
  type        = string
}
