variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}
