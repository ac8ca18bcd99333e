variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "key_arn" {
  description = "The key for all but the access logs."
  type        = string
}

variable "protected" {
  description = "Prevent the deletion of buckets that are not empty."
  type        = bool
}
