environment     = "staging"
domain          = "staging.moderation.example.org"
certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"
alarm_email     = "operations@example.org"
monthly_budget  = 300

web       = { count = 1, type = "t3.small", disk = 20 }
worker    = { count = 1, type = "t3.medium", disk = 30 }
mlflow    = { type = "t3.small", disk = 20 }
database  = { class = "db.t4g.micro", storage = 20, max_storage = 50, standby = false, backup_days = 7 }
cache     = { type = "cache.t4g.micro", nodes = 1 }
log_days  = 30
protected = false
