locals {
  uses = {
    secret_key      = "Django's SECRET_KEY"
    site_database   = "Password of the site's database user"
    mlflow_database = "Password of MLflow's database user"
    mlflow_password = "Password of MLflow, for the site and the workers"
  }
}

# AWS generates the values during apply; no plan and no state contains them. To change a value, increase its version.
ephemeral "aws_secretsmanager_random_password" "this" {
  for_each            = local.uses
  password_length     = 64
  exclude_punctuation = true
}

resource "aws_secretsmanager_secret" "this" {
  for_each                = local.uses
  name                    = "${var.name}/${each.key}"
  description             = each.value
  kms_key_id              = var.key_arn
  recovery_window_in_days = var.protected ? 30 : 0
}

resource "aws_secretsmanager_secret_version" "this" {
  for_each                 = local.uses
  secret_id                = aws_secretsmanager_secret.this[each.key].id
  secret_string_wo         = ephemeral.aws_secretsmanager_random_password.this[each.key].random_password
  secret_string_wo_version = 1
}
