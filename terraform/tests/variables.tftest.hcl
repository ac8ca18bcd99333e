# What the variables refuse.
mock_provider "aws" {}

# Mocks know no ephemeral values.
override_module {
  target = module.secrets
  outputs = { arns = {
    secret_key      = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:1"
    site_database   = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:2"
    mlflow_database = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:3"
    mlflow_password = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:4"
  } }
}

variables {
  environment     = "production"
  domain          = "moderation.example.org"
  certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/1"
  alarm_email     = "operations@example.org"
  monthly_budget  = 700
  web             = { count = 2, type = "c6i.large", disk = 30 }
  worker          = { count = 2, type = "t3.large", disk = 50 }
  mlflow          = { type = "t3.medium", disk = 30 }
  database        = { class = "db.t4g.medium", storage = 100, max_storage = 500, standby = true, backup_days = 14 }
  cache           = { type = "cache.t4g.small", nodes = 2 }
}

run "nonsense_is_refused" {
  command = plan
  variables {
    environment     = "testing"
    region          = "Frankfurt"
    domain          = "Moderation"
    certificate_arn = "certificate"
    alarm_email     = "operations"
    cidr            = "10.60.0.0/24"
    nat_gateways    = 3
    image           = { owner = "136693071363", name = "*" }
    web             = { count = 0, type = "c6i.large", disk = 30 }
    worker          = { count = 1, type = "t3.large", disk = 5 }
    mlflow          = { type = "t3.medium", disk = 5 }
    database        = { class = "t4g.medium", storage = 100, max_storage = 100, standby = true, backup_days = 1 }
    cache           = { type = "t4g.small", nodes = 3 }
    log_days        = 2
    monthly_budget  = 0
  }
  expect_failures = [
    var.environment, var.region, var.domain, var.certificate_arn, var.alarm_email, var.cidr, var.nat_gateways, var.image,
    var.web, var.worker, var.mlflow, var.database, var.cache, var.log_days, var.monthly_budget,
  ]
}

run "production_has_a_standby_and_stays_protected" {
  command = plan
  variables {
    database  = { class = "db.t4g.medium", storage = 100, max_storage = 500, standby = false, backup_days = 14 }
    protected = false
  }
  expect_failures = [var.database, var.protected]
}
