variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "key_arn" {
  description = "The key for the table."
  type        = string
}

variable "protected" {
  description = "Prevent deletion."
  type        = bool
}
