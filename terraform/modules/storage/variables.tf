variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "key_arn" {
  description = "The key for all but the access logs."
  type        = string
}

variable "protected" {
  description = "Refuse to delete buckets that hold something."
  type        = bool
}
