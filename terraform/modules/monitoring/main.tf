locals {
  balancer = { LoadBalancer = var.balancer }
  target   = { LoadBalancer = var.balancer, TargetGroup = var.target }
  database = { DBInstanceIdentifier = var.database }

  site_alarms = {
    errors = {
      text       = "More than 5 responses in 5 minutes were server errors"
      metric     = "AWS/ApplicationELB/HTTPCode_Target_5XX_Count"
      dimensions = local.target
      statistic  = "Sum"
      above      = 5
      periods    = 1
    }
    balancer-errors = {
      text       = "The load balancer has no healthy web instance"
      metric     = "AWS/ApplicationELB/HTTPCode_ELB_5XX_Count"
      dimensions = local.balancer
      statistic  = "Sum"
      above      = 5
      periods    = 1
    }
    latency = {
      text       = "5% of the responses take more than a second"
      metric     = "AWS/ApplicationELB/TargetResponseTime"
      dimensions = local.target
      statistic  = "p95"
      above      = 1
      periods    = 2
    }
    queue-age = {
      text       = "The oldest comment has waited more than a day for a moderator"
      metric     = "${var.name}/${var.metrics.queue_age}"
      dimensions = {}
      statistic  = "Maximum"
      above      = 86400
      periods    = 1
    }
    mirror-lag = {
      text       = "The mirror in DynamoDB is more than 15 minutes behind"
      metric     = "${var.name}/${var.metrics.mirror_lag}"
      dimensions = {}
      statistic  = "Maximum"
      above      = 900
      periods    = 2
    }
    database-cpu = {
      text       = "PostgreSQL has a high CPU load"
      metric     = "AWS/RDS/CPUUtilization"
      dimensions = local.database
      statistic  = "Average"
      above      = 80
      periods    = 3
    }
    database-storage = {
      text       = "PostgreSQL has less than 5 GB of free storage"
      metric     = "AWS/RDS/FreeStorageSpace"
      dimensions = local.database
      statistic  = "Minimum"
      below      = 5 * 1024 * 1024 * 1024
      periods    = 1
    }
  }
  host_alarms = merge([for host in var.hosts : {
    "${host.name}-cpu" = {
      text       = "${host.name} has a high CPU load"
      metric     = "AWS/EC2/CPUUtilization"
      dimensions = { InstanceId = host.instance_id }
      statistic  = "Average"
      above      = 90
      periods    = 6
    }
    "${host.name}-down" = {
      text       = "${host.name} fails its status checks"
      metric     = "AWS/EC2/StatusCheckFailed"
      dimensions = { InstanceId = host.instance_id }
      statistic  = "Maximum"
      above      = 0
      periods    = 1
    }
    "${host.name}-disk" = {
      text       = "${host.name}'s disk is over 85% full"
      metric     = "CWAgent/disk_used_percent"
      dimensions = { InstanceId = host.instance_id }
      statistic  = "Maximum"
      above      = 85
      periods    = 1
    }
  }]...)
  cache_alarms = merge([for member in var.cache_members : {
    "${member}-cpu" = {
      text       = "The broker has a high CPU load"
      metric     = "AWS/ElastiCache/EngineCPUUtilization"
      dimensions = { CacheClusterId = member }
      statistic  = "Average"
      above      = 80
      periods    = 3
    }
    "${member}-memory" = {
      text       = "The broker's memory is over 80% full"
      metric     = "AWS/ElastiCache/DatabaseMemoryUsagePercentage"
      dimensions = { CacheClusterId = member }
      statistic  = "Maximum"
      above      = 80
      periods    = 1
    }
  }]...)

  widgets = [
    {
      title   = "Requests"
      stat    = "Sum"
      metrics = [["AWS/ApplicationELB", "RequestCount", "LoadBalancer", var.balancer]]
    },
    {
      title = "Server errors"
      stat  = "Sum"
      metrics = [
        ["AWS/ApplicationELB", "HTTPCode_Target_5XX_Count", "LoadBalancer", var.balancer],
        ["AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count", "LoadBalancer", var.balancer],
      ]
    },
    {
      title   = "Latency, 95th percentile"
      stat    = "p95"
      metrics = [["AWS/ApplicationELB", "TargetResponseTime", "LoadBalancer", var.balancer]]
    },
    {
      title   = "Oldest comment in the queue, seconds"
      stat    = "Maximum"
      metrics = [[var.name, var.metrics.queue_age]]
    },
    {
      title   = "Mirror behind, seconds"
      stat    = "Maximum"
      metrics = [[var.name, var.metrics.mirror_lag]]
    },
    {
      title   = "Hosts' CPU"
      stat    = "Average"
      metrics = [for host in var.hosts : ["AWS/EC2", "CPUUtilization", "InstanceId", host.instance_id, { label = host.name }]]
    },
    {
      title   = "Hosts' disks, % full"
      stat    = "Maximum"
      metrics = [for host in var.hosts : ["CWAgent", "disk_used_percent", "InstanceId", host.instance_id, { label = host.name }]]
    },
    {
      title   = "PostgreSQL's CPU"
      stat    = "Average"
      metrics = [["AWS/RDS", "CPUUtilization", "DBInstanceIdentifier", var.database]]
    },
    {
      title   = "PostgreSQL's free storage"
      stat    = "Minimum"
      metrics = [["AWS/RDS", "FreeStorageSpace", "DBInstanceIdentifier", var.database]]
    },
  ]
}

resource "aws_sns_topic" "this" {
  name              = "${var.name}-alarms"
  kms_master_key_id = var.key_arn
}

resource "aws_sns_topic_subscription" "this" {
  topic_arn = aws_sns_topic.this.arn
  protocol  = "email"
  endpoint  = var.email
}

# A missing count is zero; a missing report of a host's disk is an alarm.
resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = merge(local.site_alarms, local.host_alarms, local.cache_alarms)
  alarm_name          = "${var.name}-${trimprefix(each.key, "${var.name}-")}"
  alarm_description   = each.value.text
  namespace           = dirname(each.value.metric)
  metric_name         = basename(each.value.metric)
  dimensions          = each.value.dimensions
  statistic           = startswith(each.value.statistic, "p") ? null : each.value.statistic
  extended_statistic  = startswith(each.value.statistic, "p") ? each.value.statistic : null
  comparison_operator = can(each.value.above) ? "GreaterThanThreshold" : "LessThanThreshold"
  threshold           = try(each.value.above, each.value.below)
  period              = 300
  evaluation_periods  = each.value.periods
  treat_missing_data  = startswith(each.value.metric, "CWAgent/") ? "breaching" : "notBreaching"
  alarm_actions       = [aws_sns_topic.this.arn]
  ok_actions          = [aws_sns_topic.this.arn]
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.name
  dashboard_body = jsonencode({ widgets = [for number, widget in local.widgets : {
    type   = "metric"
    x      = 8 * (number % 3)
    y      = 6 * floor(number / 3)
    width  = 8
    height = 6
    properties = {
      title   = widget.title
      region  = var.region
      stat    = widget.stat
      period  = 300
      metrics = widget.metrics
    }
  }] })
}

resource "aws_budgets_budget" "this" {
  name         = var.name
  budget_type  = "COST"
  limit_amount = format("%.1f", var.monthly_budget)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  cost_filter {
    name   = "TagKeyValue"
    values = ["user:Environment$${var.environment}"]
  }

  notification {
    notification_type          = "ACTUAL"
    comparison_operator        = "GREATER_THAN"
    threshold                  = 80
    threshold_type             = "PERCENTAGE"
    subscriber_email_addresses = [var.email]
  }

  notification {
    notification_type          = "FORECASTED"
    comparison_operator        = "GREATER_THAN"
    threshold                  = 100
    threshold_type             = "PERCENTAGE"
    subscriber_email_addresses = [var.email]
  }
}
