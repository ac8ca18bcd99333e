resource "aws_db_subnet_group" "this" {
  name       = var.name
  subnet_ids = var.subnet_ids
}

resource "aws_db_parameter_group" "this" {
  name   = "${var.name}-postgres15"
  family = "postgres15"

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  parameter {
    name  = "log_min_duration_statement"
    value = "1000"
  }
}

# One server for the databases of the site and of MLflow. RDS stores the administrator's password, not Terraform's state.
# Its version is that of Debian 12's pg_dump, which makes the backups and rejects newer servers.
resource "aws_db_instance" "this" {
  identifier                      = var.name
  engine                          = "postgres"
  engine_version                  = "15"
  instance_class                  = var.size.class
  allocated_storage               = var.size.storage
  max_allocated_storage           = var.size.max_storage
  storage_type                    = "gp3"
  storage_encrypted               = true
  kms_key_id                      = var.key_arn
  multi_az                        = var.size.standby
  db_name                         = "toxicmod"
  username                        = "administrator"
  manage_master_user_password     = true
  master_user_secret_kms_key_id   = var.key_arn
  db_subnet_group_name            = aws_db_subnet_group.this.name
  vpc_security_group_ids          = [var.group_id]
  parameter_group_name            = aws_db_parameter_group.this.name
  publicly_accessible             = false
  backup_retention_period         = var.size.backup_days
  backup_window                   = "02:00-03:00"
  maintenance_window              = "sun:03:30-sun:04:30"
  copy_tags_to_snapshot           = true
  auto_minor_version_upgrade      = true
  enabled_cloudwatch_logs_exports = ["postgresql", "upgrade"]
  deletion_protection             = var.protected
  skip_final_snapshot             = !var.protected
  final_snapshot_identifier       = "${var.name}-final"
}
