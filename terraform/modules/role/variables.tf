variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "kind" {
  description = "The kind of host: web, worker, mlflow."
  type        = string
}

variable "log_group_arn" {
  description = "The host's log group."
  type        = string
}

variable "secret_arns" {
  description = "The secrets that the host may read."
  type        = list(string)
}

variable "key_arn" {
  description = "The key that encrypts the host's data."
  type        = string
}

variable "statements" {
  description = "Policy statements for the host's work."
  type = list(object({
    Sid      = string
    Effect   = optional(string, "Allow")
    Action   = list(string)
    Resource = list(string)
  }))
  default = []

  validation {
    condition     = !contains(flatten(var.statements[*].Resource), "*") && !contains(flatten(var.statements[*].Action), "*")
    error_message = "Name the actions and the resources; a single star is not allowed."
  }
}
