variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "kind" {
  description = "The kind of host: web, worker, mlflow."
  type        = string
}

variable "number" {
  description = "The number of instances."
  type        = number
  default     = 1
}

variable "type" {
  description = "Instance type."
  type        = string
}

variable "disk" {
  description = "Root disk in GB."
  type        = number
}

variable "image" {
  description = "The machine image: owner and name."
  type        = object({ owner = string, name = string })
}

variable "subnet_ids" {
  description = "Private subnets, one per zone."
  type        = list(string)
}

variable "group_id" {
  description = "The security group."
  type        = string
}

variable "profile" {
  description = "The instance profile."
  type        = string
}

variable "key_arn" {
  description = "The key for the disk."
  type        = string
}

variable "protected" {
  description = "Prevent termination."
  type        = bool
}
