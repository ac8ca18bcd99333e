variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "subnet_ids" {
  description = "Data subnets, one per zone."
  type        = list(string)
}

variable "group_id" {
  description = "The security group."
  type        = string
}

variable "key_arn" {
  description = "The key for data at rest."
  type        = string
}

variable "type" {
  description = "Node type."
  type        = string
}

variable "nodes" {
  description = "Number of nodes: 1, or 2 with failover."
  type        = number
}
