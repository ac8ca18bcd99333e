locals {
  name = "toxicmod-${var.environment}"
  # The ports of nginx: on the web instances for the load balancer, on MLflow's for the site and the workers.
  web_port    = 80
  mlflow_port = 80
}

module "key" {
  source = "./modules/key"
  name   = local.name
}

module "network" {
  source       = "./modules/network"
  name         = local.name
  region       = var.region
  cidr         = var.cidr
  nat_gateways = var.nat_gateways
  log_days     = var.log_days
  key_arn      = module.key.arn
}

module "firewall" {
  source      = "./modules/firewall"
  name        = local.name
  vpc_id      = module.network.vpc_id
  web_port    = local.web_port
  mlflow_port = local.mlflow_port
}

module "storage" {
  source    = "./modules/storage"
  name      = local.name
  key_arn   = module.key.arn
  protected = var.protected
}

module "records" {
  source    = "./modules/records"
  name      = local.name
  key_arn   = module.key.arn
  protected = var.protected
}

module "database" {
  source     = "./modules/database"
  name       = local.name
  subnet_ids = module.network.subnet_ids.data
  group_id   = module.firewall.group_ids.database
  key_arn    = module.key.arn
  size       = var.database
  protected  = var.protected
}

module "cache" {
  source     = "./modules/cache"
  name       = local.name
  subnet_ids = module.network.subnet_ids.data
  group_id   = module.firewall.group_ids.cache
  key_arn    = module.key.arn
  type       = var.cache.type
  nodes      = var.cache.nodes
}

module "secrets" {
  source    = "./modules/secrets"
  name      = local.name
  key_arn   = module.key.arn
  protected = var.protected
}

module "logs" {
  source  = "./modules/logs"
  name    = local.name
  days    = var.log_days
  key_arn = module.key.arn
}

module "web_role" {
  source        = "./modules/role"
  name          = local.name
  kind          = "web"
  key_arn       = module.key.arn
  log_group_arn = module.logs.arns.web
  secret_arns   = [for use in ["secret_key", "site_database", "mlflow_password"] : module.secrets.arns[use]]
  statements = [
    {
      Sid      = "Bucket"
      Action   = ["s3:ListBucket"]
      Resource = [module.storage.arns.datasets]
    },
    {
      Sid      = "Datasets"
      Action   = ["s3:GetObject"]
      Resource = ["${module.storage.arns.datasets}/*"]
    },
  ]
}

# The workers use S3 for data sets, exports and backups, and DynamoDB for the mirror.
module "worker_role" {
  source        = "./modules/role"
  name          = local.name
  kind          = "worker"
  key_arn       = module.key.arn
  log_group_arn = module.logs.arns.worker
  secret_arns   = [for use in ["secret_key", "site_database", "mlflow_password"] : module.secrets.arns[use]]
  statements = [
    {
      Sid      = "Buckets"
      Action   = ["s3:ListBucket"]
      Resource = [for use in ["datasets", "backups"] : module.storage.arns[use]]
    },
    {
      Sid      = "Objects"
      Action   = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
      Resource = [for use in ["datasets", "backups"] : "${module.storage.arns[use]}/*"]
    },
    {
      Sid      = "Mirror"
      Action   = ["dynamodb:PutItem", "dynamodb:Query"]
      Resource = [module.records.arn, "${module.records.arn}/index/*"]
    },
  ]
}

module "mlflow_role" {
  source        = "./modules/role"
  name          = local.name
  kind          = "mlflow"
  key_arn       = module.key.arn
  log_group_arn = module.logs.arns.mlflow
  secret_arns   = [for use in ["mlflow_database", "mlflow_password"] : module.secrets.arns[use]]
  statements = [
    {
      Sid      = "Buckets"
      Action   = ["s3:ListBucket"]
      Resource = [module.storage.arns.artifacts, module.storage.arns.backups]
    },
    {
      Sid      = "Artifacts"
      Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
      Resource = ["${module.storage.arns.artifacts}/*"]
    },
    {
      Sid      = "Backups"
      Action   = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
      Resource = ["${module.storage.arns.backups}/*"]
    },
  ]
}

module "web" {
  source     = "./modules/hosts"
  name       = local.name
  kind       = "web"
  number     = var.web.count
  type       = var.web.type
  disk       = var.web.disk
  image      = var.image
  subnet_ids = module.network.subnet_ids.private
  group_id   = module.firewall.group_ids.web
  profile    = module.web_role.profile
  key_arn    = module.key.arn
  protected  = var.protected
}

module "worker" {
  source     = "./modules/hosts"
  name       = local.name
  kind       = "worker"
  number     = var.worker.count
  type       = var.worker.type
  disk       = var.worker.disk
  image      = var.image
  subnet_ids = module.network.subnet_ids.private
  group_id   = module.firewall.group_ids.worker
  profile    = module.worker_role.profile
  key_arn    = module.key.arn
  protected  = var.protected
}

module "mlflow" {
  source     = "./modules/hosts"
  name       = local.name
  kind       = "mlflow"
  type       = var.mlflow.type
  disk       = var.mlflow.disk
  image      = var.image
  subnet_ids = module.network.subnet_ids.private
  group_id   = module.firewall.group_ids.mlflow
  profile    = module.mlflow_role.profile
  key_arn    = module.key.arn
  protected  = var.protected
}

module "balancer" {
  source          = "./modules/balancer"
  name            = local.name
  vpc_id          = module.network.vpc_id
  subnet_ids      = module.network.subnet_ids.public
  group_id        = module.firewall.group_ids.balancer
  certificate_arn = var.certificate_arn
  instance_ids    = module.web.hosts[*].instance_id
  web_port        = local.web_port
  log_bucket      = module.storage.log_bucket
  protected       = var.protected
}

module "monitoring" {
  source         = "./modules/monitoring"
  name           = local.name
  environment    = var.environment
  region         = var.region
  key_arn        = module.key.arn
  email          = var.alarm_email
  monthly_budget = var.monthly_budget
  balancer       = module.balancer.arn_suffix
  target         = module.balancer.target_suffix
  database       = module.database.identifier
  cache_members  = module.cache.members
  hosts          = concat(module.web.hosts, module.worker.hosts, module.mlflow.hosts)
  metrics        = module.logs.metrics
}
