variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "vpc_id" {
  description = "The network."
  type        = string
}

variable "subnet_ids" {
  description = "Public subnets, one per zone."
  type        = list(string)
}

variable "group_id" {
  description = "The security group."
  type        = string
}

variable "certificate_arn" {
  description = "The certificate."
  type        = string
}

variable "instance_ids" {
  description = "The web instances."
  type        = list(string)
}

variable "web_port" {
  description = "The port of nginx on the web instances."
  type        = number
}

variable "log_bucket" {
  description = "The bucket for access logs."
  type        = string
}

variable "protected" {
  description = "Prevent deletion."
  type        = bool
}
