variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "key_arn" {
  description = "The key for the values."
  type        = string
}

variable "protected" {
  description = "Keep deleted secrets for 30 days."
  type        = bool
}
