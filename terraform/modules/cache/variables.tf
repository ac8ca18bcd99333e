variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "subnet_ids" {
  description = "Data subnets, one a zone."
  type        = list(string)
}

variable "group_id" {
  description = "The security group."
  type        = string
}

variable "key_arn" {
  description = "The key for what rests."
  type        = string
}

variable "type" {
  description = "Node type."
  type        = string
}

variable "nodes" {
  description = "1, or 2 that fail over."
  type        = number
}
