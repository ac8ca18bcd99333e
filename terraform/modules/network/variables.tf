variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "region" {
  description = "The AWS region."
  type        = string
}

variable "cidr" {
  description = "The network's address range, a /16."
  type        = string
}

variable "nat_gateways" {
  description = "The number of NAT gateways, 1 or 2."
  type        = number
}

variable "log_days" {
  description = "Days to keep the log of rejected connections."
  type        = number
}

variable "key_arn" {
  description = "The key for the log."
  type        = string
}
