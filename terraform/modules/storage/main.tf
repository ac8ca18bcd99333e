data "aws_caller_identity" "this" {}

locals {
  # The purpose of each bucket, and the days after which its objects are deleted (null: never).
  uses = {
    datasets  = null
    artifacts = null
    backups   = 90
    deploy    = 7
    logs      = 90
  }
}

resource "aws_s3_bucket" "this" {
  for_each      = local.uses
  bucket        = "${var.name}-${data.aws_caller_identity.this.account_id}-${each.key}"
  force_destroy = !var.protected
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = local.uses
  bucket                  = aws_s3_bucket.this[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = local.uses
  bucket   = aws_s3_bucket.this[each.key].id

  versioning_configuration {
    status = "Enabled"
  }
}

# The load balancer can write only to buckets whose key S3 manages.
resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = local.uses
  bucket   = aws_s3_bucket.this[each.key].id

  rule {
    bucket_key_enabled = each.key != "logs"

    apply_server_side_encryption_by_default {
      sse_algorithm     = each.key == "logs" ? "AES256" : "aws:kms"
      kms_master_key_id = each.key == "logs" ? null : var.key_arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each   = local.uses
  bucket     = aws_s3_bucket.this[each.key].id
  depends_on = [aws_s3_bucket_versioning.this]

  rule {
    id     = "tidy"
    status = "Enabled"
    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }

    noncurrent_version_expiration {
      noncurrent_days = 90
    }

    dynamic "expiration" {
      for_each = each.value[*]
      content {
        days = expiration.value
      }
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each   = local.uses
  bucket     = aws_s3_bucket.this[each.key].id
  depends_on = [aws_s3_bucket_public_access_block.this]
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid       = "OnlyTLS"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [aws_s3_bucket.this[each.key].arn, "${aws_s3_bucket.this[each.key].arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      }],
      each.key != "logs" ? [] : [{
        Sid       = "LoadBalancerWrites"
        Effect    = "Allow"
        Principal = { Service = "logdelivery.elasticloadbalancing.amazonaws.com" }
        Action    = "s3:PutObject"
        Resource  = "${aws_s3_bucket.this[each.key].arn}/AWSLogs/${data.aws_caller_identity.this.account_id}/*"
      }],
    )
  })
}
