data "aws_ami" "this" {
  most_recent = true
  owners      = [var.image.owner]

  filter {
    name   = "name"
    values = [var.image.name]
  }
}

resource "aws_instance" "this" {
  count                   = var.number
  ami                     = data.aws_ami.this.id
  instance_type           = var.type
  subnet_id               = var.subnet_ids[count.index % length(var.subnet_ids)]
  vpc_security_group_ids  = [var.group_id]
  iam_instance_profile    = var.profile
  ebs_optimized           = true
  disable_api_termination = var.protected
  user_data               = file("${path.module}/first_boot.sh")
  tags                    = { Name = "${var.name}-${var.kind}-${count.index + 1}", Kind = var.kind }

  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = var.disk
    encrypted   = true
    kms_key_id  = var.key_arn
  }

  # A newer image applies to new hosts only, so that a publication by Debian does not replace running hosts.
  lifecycle {
    ignore_changes = [ami, user_data]
  }
}
