# The permissions of one kind of host: be reached by SSM, write its own log and metrics, use the key through
# AWS's services, read its secrets, and the statements for its work.
resource "aws_iam_role" "this" {
  name = "${var.name}-${var.kind}"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_instance_profile" "this" {
  name = "${var.name}-${var.kind}"
  role = aws_iam_role.this.name
}

resource "aws_iam_role_policy" "this" {
  name = "work"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid    = "Shell"
          Effect = "Allow"
          Action = [
            "ssm:UpdateInstanceInformation",
            "ssmmessages:CreateControlChannel",
            "ssmmessages:CreateDataChannel",
            "ssmmessages:OpenControlChannel",
            "ssmmessages:OpenDataChannel",
          ]
          Resource = "*"
        },
        {
          Sid       = "Metrics"
          Effect    = "Allow"
          Action    = "cloudwatch:PutMetricData"
          Resource  = "*"
          Condition = { StringEquals = { "cloudwatch:namespace" = "CWAgent" } }
        },
        {
          Sid      = "Log"
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
          Resource = "${var.log_group_arn}:*"
        },
        {
          Sid      = "Secrets"
          Effect   = "Allow"
          Action   = "secretsmanager:GetSecretValue"
          Resource = var.secret_arns
        },
        {
          Sid       = "Key"
          Effect    = "Allow"
          Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
          Resource  = var.key_arn
          Condition = { StringLike = { "kms:ViaService" = ["s3.*.amazonaws.com", "secretsmanager.*.amazonaws.com", "dynamodb.*.amazonaws.com"] } }
        },
      ],
      var.statements,
    )
  })
}
