variable "environment" {
  description = "The environment, which is part of all names."
  type        = string

  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "The environment must be staging or production."
  }
}

variable "region" {
  description = "The AWS region."
  type        = string
  default     = "eu-central-1"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "The region must be a name such as eu-central-1."
  }
}

variable "domain" {
  description = "The site's host name."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain))
    error_message = "The domain must be a host name in lower case, such as moderation.example.org."
  }
}

variable "certificate_arn" {
  description = "The certificate for the domain, issued by or imported into ACM in this region."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/.+$", var.certificate_arn))
    error_message = "The certificate must be the ARN of a certificate in ACM."
  }
}

variable "alarm_email" {
  description = "The e-mail address for alarms and budget warnings; it must confirm its subscription."
  type        = string

  validation {
    condition     = can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", var.alarm_email))
    error_message = "The value must be an e-mail address."
  }
}

variable "cidr" {
  description = "The network's address range: a /16, divided into /20 subnets."
  type        = string
  default     = "10.60.0.0/16"

  validation {
    condition     = can(cidrsubnet(var.cidr, 4, 15)) && endswith(var.cidr, "/16")
    error_message = "The network must have 65,536 addresses, such as 10.60.0.0/16."
  }
}

variable "nat_gateways" {
  description = "The number of NAT gateways for the private subnets: 1 is cheaper, 2 survive the loss of a zone."
  type        = number
  default     = 1

  validation {
    condition     = contains([1, 2], var.nat_gateways)
    error_message = "The number of gateways must be 1 or 2, because there are two zones."
  }
}

variable "image" {
  description = "The machine image: the account of its owner and its name, with `*` as a wildcard. A new host uses the newest matching image."
  type        = object({ owner = string, name = string })
  default     = { owner = "136693071363", name = "debian-12-amd64-*" }

  validation {
    condition     = can(regex("^([0-9]{12}|amazon|self)$", var.image.owner)) && var.image.name != "*"
    error_message = "The image needs the account number of an owner (or amazon, self) and a specific name."
  }
}

variable "web" {
  description = "The web instances: number, type, disk in GB."
  type        = object({ count = number, type = string, disk = number })

  validation {
    condition     = var.web.count >= 1 && var.web.count <= 20 && var.web.disk >= 20
    error_message = "There must be 1 to 20 web instances with at least 20 GB."
  }
}

variable "worker" {
  description = "The Celery instances: number, type, disk in GB. Training needs 4 GB of memory."
  type        = object({ count = number, type = string, disk = number })

  validation {
    condition     = var.worker.count >= 1 && var.worker.count <= 20 && var.worker.disk >= 20
    error_message = "There must be 1 to 20 workers with at least 20 GB."
  }
}

variable "mlflow" {
  description = "The MLflow instance: type, disk in GB."
  type        = object({ type = string, disk = number })

  validation {
    condition     = var.mlflow.disk >= 20
    error_message = "MLflow needs at least 20 GB."
  }
}

variable "database" {
  description = "PostgreSQL: instance class, storage in GB and its maximum, a standby in the other zone, days of backups."
  type = object({
    class       = string
    storage     = number
    max_storage = number
    standby     = bool
    backup_days = number
  })

  validation {
    condition     = startswith(var.database.class, "db.") && var.database.storage >= 20 && var.database.max_storage > var.database.storage
    error_message = "The class must begin with db., the storage must have at least 20 GB, and its maximum must be larger."
  }

  validation {
    condition     = var.database.backup_days >= 7 && var.database.backup_days <= 35
    error_message = "Backups must be kept for 7 to 35 days."
  }

  validation {
    condition     = var.environment != "production" || var.database.standby
    error_message = "Production needs a standby."
  }
}

variable "cache" {
  description = "The broker: node type and number of nodes; 2 nodes have automatic failover."
  type        = object({ type = string, nodes = number })

  validation {
    condition     = startswith(var.cache.type, "cache.") && contains([1, 2], var.cache.nodes)
    error_message = "The type must begin with cache., and there must be 1 or 2 nodes."
  }
}

variable "log_days" {
  description = "Days for which CloudWatch keeps log lines."
  type        = number
  default     = 365

  validation {
    condition     = contains([30, 60, 90, 180, 365, 400, 731], var.log_days)
    error_message = "CloudWatch accepts 30, 60, 90, 180, 365, 400 and 731 days."
  }
}

variable "protected" {
  description = "Prevent the deletion of the load balancer, the database, the table and buckets that are not empty. Production must be protected."
  type        = bool
  default     = true

  validation {
    condition     = var.environment != "production" || var.protected
    error_message = "Production must be protected; remove the protection manually before you delete it."
  }
}

variable "monthly_budget" {
  description = "US dollars per month. A forecast above the budget and 80% of the budget cause an e-mail."
  type        = number

  validation {
    condition     = var.monthly_budget > 0
    error_message = "The budget must be greater than zero."
  }
}
