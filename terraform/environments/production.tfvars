environment     = "production"
domain          = "moderation.example.org"
certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"
alarm_email     = "operations@example.org"
monthly_budget  = 1500

nat_gateways = 2
web          = { count = 2, type = "c6i.large", disk = 30 }
worker       = { count = 2, type = "t3.large", disk = 50 }
mlflow       = { type = "t3.medium", disk = 30 }
database     = { class = "db.t4g.medium", storage = 100, max_storage = 500, standby = true, backup_days = 14 }
cache        = { type = "cache.t4g.small", nodes = 2 }
