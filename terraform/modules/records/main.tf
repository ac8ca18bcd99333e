# The mirror of predictions, feedback and decisions. `apps.mirror` defines its keys and index.
resource "aws_dynamodb_table" "this" {
  name                        = "${var.name}-records"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "prediction"
  range_key                   = "record"
  deletion_protection_enabled = var.protected

  attribute {
    name = "prediction"
    type = "S"
  }

  attribute {
    name = "record"
    type = "S"
  }

  attribute {
    name = "shard"
    type = "S"
  }

  attribute {
    name = "at"
    type = "S"
  }

  # The time index, with several shards for each day.
  global_secondary_index {
    name            = "by_time"
    hash_key        = "shard"
    range_key       = "at"
    projection_type = "ALL"
  }

  ttl {
    attribute_name = "expires"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled     = true
    kms_key_arn = var.key_arn
  }
}
