output "hosts" {
  description = "Name, instance_id and private address of each instance."
  value = [for host in aws_instance.this : {
    name        = host.tags["Name"]
    instance_id = host.id
    address     = host.private_ip
  }]
}
