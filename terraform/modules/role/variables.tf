variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "box" {
  description = "The kind of box: web, worker, mlflow."
  type        = string
}

variable "log_group_arn" {
  description = "The log group that it writes to."
  type        = string
}

variable "secret_arns" {
  description = "The secrets that it may read."
  type        = list(string)
}

variable "key_arn" {
  description = "The key that its data is encrypted with."
  type        = string
}

variable "statements" {
  description = "Policy statements that its work needs."
  type = list(object({
    Sid      = string
    Effect   = optional(string, "Allow")
    Action   = list(string)
    Resource = list(string)
  }))
  default = []

  validation {
    condition     = !contains(flatten(var.statements[*].Resource), "*") && !contains(flatten(var.statements[*].Action), "*")
    error_message = "Name the actions and the resources: no star alone."
  }
}
