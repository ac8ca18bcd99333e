variable "environment" {
  description = "Which environment this is; part of every name."
  type        = string

  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "The environment is staging or production."
  }
}

variable "region" {
  description = "The AWS region."
  type        = string
  default     = "eu-central-1"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "Give a region's name, such as eu-central-1."
  }
}

variable "domain" {
  description = "The site's host name."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain))
    error_message = "Give a host name in small letters, such as moderation.example.org."
  }
}

variable "certificate_arn" {
  description = "The certificate for the domain, issued by or imported into ACM in this region."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/.+$", var.certificate_arn))
    error_message = "Give the ARN of a certificate in ACM."
  }
}

variable "alarm_email" {
  description = "Who gets alarms and budget warnings; the address must confirm its subscription."
  type        = string

  validation {
    condition     = can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", var.alarm_email))
    error_message = "Give an e-mail address."
  }
}

variable "cidr" {
  description = "The network's addresses: a /16, cut into /20 subnets."
  type        = string
  default     = "10.60.0.0/16"

  validation {
    condition     = can(cidrsubnet(var.cidr, 4, 15)) && endswith(var.cidr, "/16")
    error_message = "Give a network of 65,536 addresses, such as 10.60.0.0/16."
  }
}

variable "nat_gateways" {
  description = "Ways out of the private subnets: 1 is cheaper, 2 outlive a zone."
  type        = number
  default     = 1

  validation {
    condition     = contains([1, 2], var.nat_gateways)
    error_message = "There are two zones: 1 or 2 gateways."
  }
}

variable "image" {
  description = "The machine image: its owner's account and its name (`*` allowed). The newest that fits is taken when a host is made."
  type        = object({ owner = string, name = string })
  default     = { owner = "136693071363", name = "debian-12-amd64-*" }

  validation {
    condition     = can(regex("^([0-9]{12}|amazon|self)$", var.image.owner)) && var.image.name != "*"
    error_message = "Give an owner's account number (or amazon, self) and a name that narrows the choice."
  }
}

variable "web" {
  description = "The web instances: how many, their type, their disk in GB."
  type        = object({ count = number, type = string, disk = number })

  validation {
    condition     = var.web.count >= 1 && var.web.count <= 20 && var.web.disk >= 20
    error_message = "1 to 20 web instances with 20 GB or more."
  }
}

variable "worker" {
  description = "The Celery instances: how many, their type, their disk in GB. Training wants 4 GB of memory."
  type        = object({ count = number, type = string, disk = number })

  validation {
    condition     = var.worker.count >= 1 && var.worker.count <= 20 && var.worker.disk >= 20
    error_message = "1 to 20 workers with 20 GB or more."
  }
}

variable "mlflow" {
  description = "The MLflow instance: its type, its disk in GB."
  type        = object({ type = string, disk = number })

  validation {
    condition     = var.mlflow.disk >= 20
    error_message = "MLflow needs 20 GB or more."
  }
}

variable "database" {
  description = "PostgreSQL: instance class, storage in GB and how far it may grow, a standby in the other zone, days of backups."
  type = object({
    class       = string
    storage     = number
    max_storage = number
    standby     = bool
    backup_days = number
  })

  validation {
    condition     = startswith(var.database.class, "db.") && var.database.storage >= 20 && var.database.max_storage > var.database.storage
    error_message = "The class begins with db., the storage has 20 GB or more, and room to grow."
  }

  validation {
    condition     = var.database.backup_days >= 7 && var.database.backup_days <= 35
    error_message = "RDS keeps backups for 35 days at most; less than 7 is too few."
  }

  validation {
    condition     = var.environment != "production" || var.database.standby
    error_message = "Production needs a standby."
  }
}

variable "cache" {
  description = "The broker: node type; 2 nodes fail over by themselves."
  type        = object({ type = string, nodes = number })

  validation {
    condition     = startswith(var.cache.type, "cache.") && contains([1, 2], var.cache.nodes)
    error_message = "The type begins with cache., and there are 1 or 2 nodes."
  }
}

variable "log_days" {
  description = "How long CloudWatch keeps log lines, in days."
  type        = number
  default     = 365

  validation {
    condition     = contains([30, 60, 90, 180, 365, 400, 731], var.log_days)
    error_message = "CloudWatch knows 30, 60, 90, 180, 365, 400 and 731 days."
  }
}

variable "protected" {
  description = "Refuse to delete the load balancer, the database, the table and buckets that hold something. Staging may go, production may not."
  type        = bool
  default     = true

  validation {
    condition     = var.environment != "production" || var.protected
    error_message = "Production stays protected; take protection off by hand where you mean it."
  }
}

variable "monthly_budget" {
  description = "US dollars a month; a forecast above it, or 80 % spent, is mailed."
  type        = number

  validation {
    condition     = var.monthly_budget > 0
    error_message = "The budget is above zero."
  }
}
