variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "days" {
  description = "Days to keep log lines."
  type        = number
}

variable "key_arn" {
  description = "The key for the log lines."
  type        = string
}
