variable "name" {
  description = "The stack's name: project and environment."
  type        = string
}

variable "subnet_ids" {
  description = "Data subnets, one per zone."
  type        = list(string)
}

variable "group_id" {
  description = "The security group."
  type        = string
}

variable "key_arn" {
  description = "The key for storage, backups and the administrator's password."
  type        = string
}

variable "size" {
  description = "Class, storage in GB and its maximum, a standby in the other zone, days of backups."
  type = object({
    class       = string
    storage     = number
    max_storage = number
    standby     = bool
    backup_days = number
  })
}

variable "protected" {
  description = "Prevent deletion; keep a final snapshot."
  type        = bool
}
