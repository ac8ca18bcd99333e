data "aws_availability_zones" "this" {
  state = "available"
}

locals {
  zones = slice(sort(data.aws_availability_zones.this.names), 0, 2)
  # Public subnets contain the load balancer and the NAT gateways, private ones the hosts; data subnets have no route out.
  subnets = { for pair in setproduct(["public", "private", "data"], [0, 1]) : "${pair[0]}-${pair[1] + 1}" => {
    tier = pair[0]
    zone = pair[1]
    cidr = cidrsubnet(var.cidr, 4, { public = 0, private = 2, data = 4 }[pair[0]] + pair[1])
  } }
}

resource "aws_vpc" "this" {
  cidr_block           = var.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

# Resources without a security group have no connections.
resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
}

resource "aws_subnet" "this" {
  for_each          = local.subnets
  vpc_id            = aws_vpc.this.id
  availability_zone = local.zones[each.value.zone]
  cidr_block        = each.value.cidr
  tags              = { Name = "${var.name}-${each.key}" }
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = var.name }
}

resource "aws_eip" "nat" {
  count      = var.nat_gateways
  domain     = "vpc"
  depends_on = [aws_internet_gateway.this]
  tags       = { Name = "${var.name}-nat-${count.index + 1}" }
}

resource "aws_nat_gateway" "this" {
  count         = var.nat_gateways
  allocation_id = aws_eip.nat[count.index].id
  subnet_id     = aws_subnet.this["public-${count.index + 1}"].id
  tags          = { Name = "${var.name}-${count.index + 1}" }
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.name}-public" }

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.this.id
  }
}

resource "aws_route_table" "private" {
  count  = 2
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.name}-private-${count.index + 1}" }

  route {
    cidr_block     = "0.0.0.0/0"
    nat_gateway_id = aws_nat_gateway.this[count.index % var.nat_gateways].id
  }
}

resource "aws_route_table" "data" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.name}-data" }
}

resource "aws_route_table_association" "this" {
  for_each  = local.subnets
  subnet_id = aws_subnet.this[each.key].id
  route_table_id = {
    public  = aws_route_table.public.id
    private = aws_route_table.private[each.value.zone].id
    data    = aws_route_table.data.id
  }[each.value.tier]
}

# Traffic to S3 and DynamoDB avoids the NAT gateway: this is free and does not use the internet.
resource "aws_vpc_endpoint" "this" {
  for_each        = toset(["s3", "dynamodb"])
  vpc_id          = aws_vpc.this.id
  service_name    = "com.amazonaws.${var.region}.${each.key}"
  route_table_ids = aws_route_table.private[*].id
  tags            = { Name = "${var.name}-${each.key}" }
}

resource "aws_flow_log" "this" {
  vpc_id               = aws_vpc.this.id
  traffic_type         = "REJECT"
  log_destination_type = "cloud-watch-logs"
  log_destination      = aws_cloudwatch_log_group.flow.arn
  iam_role_arn         = aws_iam_role.flow.arn
}

resource "aws_cloudwatch_log_group" "flow" {
  name              = "/${var.name}/network"
  retention_in_days = var.log_days
  kms_key_id        = var.key_arn
}

resource "aws_iam_role" "flow" {
  name = "${var.name}-flow-log"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "vpc-flow-logs.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "flow" {
  name = "write"
  role = aws_iam_role.flow.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
      Resource = "${aws_cloudwatch_log_group.flow.arn}:*"
    }]
  })
}
