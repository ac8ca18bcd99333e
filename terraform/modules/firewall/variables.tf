variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "vpc_id" {
  description = "The network."
  type        = string
}

variable "web_port" {
  description = "The port of nginx on the web instances."
  type        = number
}

variable "mlflow_port" {
  description = "The port of nginx on the MLflow instance."
  type        = number
}
